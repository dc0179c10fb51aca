// Reads and writes elements of our sets. The hot path: no object per element.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "helper/layout.h"

namespace egress::helper {

/// Properties of an element besides its key.
struct Lifetime {
    std::uint64_t seconds = for_ever;
    /// Kernels since 6.12 change the time of an existing element in place and keep its counter.
    bool renew = false;
    /// Initial counter of an element that replaces another.
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
};

/// Writes elements of one set into a batch: as many per message as fit, or one per message if each
/// has an owner to blame.
class ElementWriter {
  public:
    /// `type` is NFT_MSG_NEWSETELEM or NFT_MSG_DELSETELEM. The name must outlive the writer.
    ElementWriter(Batch& batch, std::uint16_t type, const std::string& set,
                  int owner = Batch::shared);
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

/// Appends the elements of the set that have not expired to `out`, with the time left at `start`
/// (kernel_now(); reading may take seconds). Calls `show`, if given, at once for each, with the
/// time left then; for some twice, if the set changes meanwhile.
Result<bool> read_elements(Netlink& netlink, const SetId& set, const std::string& name,
                           std::int64_t start, std::vector<Element>& out, const Show& show = {});

/// One element; nullopt: none.
Result<std::optional<Element>> read_element(Netlink& netlink, const SetId& set,
                                            const std::string& name, const Target& target);

} // namespace egress::helper
