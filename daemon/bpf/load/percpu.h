// Where the kernel keeps variables of each CPU, from its own description of its types.
#pragma once

#include <cstdint>

namespace egress::bpf {

/// How far variables of a CPU are from its run queue, in bytes; 0: not known. See sender.h.
struct PerCpu {
    std::int64_t count = 0; ///< what the CPU is in the middle of (preempt_count)
    std::int64_t task = 0;  ///< pointer to the current task
};
PerCpu find_per_cpu();

} // namespace egress::bpf
