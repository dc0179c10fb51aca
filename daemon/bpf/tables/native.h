// The verdict of verdict.h over Tables in memory: for `egressctl explain`, and for the tests that
// compare it with the plain matcher and with the kernel.
#pragma once

#include "daemon/bpf/tables/compile.h"

namespace egress::bpf {

/// What native_decide() found.
struct Decision {
    std::uint32_t rule =
        EGRESS_UNMATCHED;    ///< index into policy.egress; or EGRESS_UNMATCHED, _BROKEN
    std::uint64_t named = 0; ///< key of the name by which it matched; 0: by none
    // The sets of rules that each dimension leaves, for explaining.
#define EGRESS_SET_OF(dimension, label) egress_vector dimension;
    EGRESS_DIMENSIONS(EGRESS_SET_OF)
#undef EGRESS_SET_OF
};

/// What names add to a check if the policy has none.
egress_naming no_names();

/// `cgroup` is the path of the process' cgroup; root made every part of it. `grants`: those of all
/// sets; null: none.
Decision native_decide(const Tables& tables, const egress_process& process, const egress_flow& flow,
                       std::string_view cgroup, std::uint64_t now, std::uint64_t week_at_boot,
                       const egress_grants* grants = nullptr);

/// Whether the cgroup at this path below the cgroup2 root, or one around it, is a container's.
bool is_in_container(std::string_view cgroup);

} // namespace egress::bpf
