// The tables of a policy -> the kernel's maps of one slot.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/tables/compile.h"
#include "lib/fd.h"

namespace egress::bpf {

/// Descriptor of the outer map of that name.
using OuterMap = std::function<int(std::string_view name)>;

/// Creates and fills the inner maps and puts them into the slot, which must not be in force.
Result<> fill_slot(const Tables& tables, std::uint32_t slot, const OuterMap& outer);

/// A slot whose maps stay in their place and are filled again and again, for small policies: to put
/// maps into a slot, the kernel waits for its readers each time. Nothing may read it meanwhile.
class KeptSlot {
  public:
    static Result<KeptSlot> make(std::uint32_t slot, const OuterMap& outer);
    /// Fails if the policy is larger than the maps.
    Result<> fill(const Tables& tables);

  private:
    std::vector<std::pair<std::string, Fd>> maps_;
};

/// Waits until every verdict that began before has finished. make() allocates everything that
/// wait() needs, so that wait() cannot fail for lack of it after a switch of policies.
class Readers {
  public:
    static Result<Readers> make();
    Result<> wait() const;

  private:
    Fd outer_, inner_; ///< a map of maps that no verdict uses
};

/// Frees the maps of a slot that no verdict uses.
void empty_slot(std::uint32_t slot, const OuterMap& outer);

} // namespace egress::bpf
