// The tables of a policy -> the kernel's maps of one slot.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "daemon/bpf/compile.h"
#include "daemon/result.h"

namespace egress::bpf {

/// Descriptor of the outer map of that name.
using OuterMap = std::function<int(std::string_view name)>;

/// Makes and fills the inner maps and puts them into the slot, which is not in force.
Result<> fill_slot(const Tables& tables, std::uint32_t slot, const OuterMap& outer);

/// Waits until no verdict uses the slot any more (`in_force` is the other) and frees its maps.
Result<> empty_slot(std::uint32_t slot, std::uint32_t in_force, const OuterMap& outer);

} // namespace egress::bpf
