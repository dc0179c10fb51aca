// The tables of a policy -> the kernel's maps of one slot.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "daemon/base/result.h"
#include "daemon/bpf/tables/compile.h"
#include "lib/fd.h"

namespace egress::bpf {

/// Descriptor of the outer map of that name.
using OuterMap = std::function<int(std::string_view name)>;

/// Makes and fills the inner maps and puts them into the slot, which is not in force.
Result<> fill_slot(const Tables& tables, std::uint32_t slot, const OuterMap& outer);

/// Waits until every verdict that had begun before is given. Everything that it needs is made at
/// the start, so that there is nothing it could lack once a policy has been switched to.
class Readers {
  public:
    static Result<Readers> make();
    Result<> wait() const;

  private:
    Fd outer_, inner_; ///< a map of maps in which no verdict looks
};

/// Frees the maps of a slot that no verdict uses any more.
void empty_slot(std::uint32_t slot, const OuterMap& outer);

} // namespace egress::bpf
