// Elements of our sets as the kernel reads and writes them. The hot path: no object per element.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "helper/layout.h"

namespace egress::helper {

/// What an element is given besides its key.
struct Lifetime {
    std::uint64_t seconds = for_ever;
    /// Kernels since 6.12 give an element that is there a new time in place, counter untouched.
    bool renew = false;
    /// A counter to begin with, where an element is made anew in place of another.
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
};

/// Writes elements of one set into a batch, as many to a message as fit, or one where each has an
/// owner to blame.
class ElementWriter {
  public:
    /// `type` is NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM. The name must outlive the writer.
    ElementWriter(Batch& batch, std::uint16_t type, const std::string& set,
                  int owner = Batch::nobody);
    ElementWriter(const ElementWriter&) = delete;
    ElementWriter& operator=(const ElementWriter&) = delete;
    ~ElementWriter() { finish(); }

    void put(const Target& target, const Lifetime* lifetime = nullptr);

  private:
    void finish();

    Batch& batch_;
    std::uint16_t type_;
    const std::string& set_;
    int owner_;
    nlmsghdr* message_ = nullptr;
    nlattr* list_ = nullptr;
};

using Show = std::function<void(const Element&)>;

/// Appends what is in the set to `out`, nothing that has expired, with the time that was left at
/// `start` (kernel_now(); reading may take seconds). `show`, if any, is called at once for each,
/// with the time that is left then; for some twice, if the set changes meanwhile.
Result<bool> read_elements(Netlink& netlink, const SetId& set, const std::string& name,
                           std::int64_t start, std::vector<Element>& out, const Show& show = {});

/// One element, if it is there.
Result<std::optional<Element>> read_element(Netlink& netlink, const SetId& set,
                                            const std::string& name, const Target& target);

} // namespace egress::helper
