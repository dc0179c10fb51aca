// Finds per-CPU variables of the kernel by its type information (BTF).
#pragma once

#include <cstdint>

namespace egress::bpf {

/// Distance of per-CPU variables from the run queue, in bytes; 0: unknown. See sender.h.
struct PerCpu {
    std::int64_t count = 0; ///< the contexts that the CPU is in (preempt_count)
    std::int64_t task = 0;  ///< pointer to the current task
};
PerCpu find_per_cpu();

} // namespace egress::bpf
