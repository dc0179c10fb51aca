/* Which process is sending. In the packet hook the current task may be an unrelated one: packets
 * also leave from interrupts and timers.
 *
 * No BPF helper provides this. The kernel counts, per CPU, the contexts that it is in
 * (preempt_count). The loader knows the distance of that variable from the CPU's run queue, to
 * which the current task points.
 */
#ifndef EGRESS_BPF_SENDER_H
#define EGRESS_BPF_SENDER_H

#include "kernel.h"
#include "maps.h"

#define EGRESS_ANY_INTERRUPT 0x00ffff00 /* soft ones (served or held off), hard ones, NMI */

/* Bytes from the run queue to the count, and to the pointer to the current task, which verifies the
 * base. The loader sets them; 0: unknown. */
const volatile __s64 count_from_queue = 0;
const volatile __s64 task_from_queue = 0;

/* Address of each CPU's count; 0: not searched yet, 1: not found. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

static __noinline __u64 find_count(void) {
    struct task_struct* task = (void*)bpf_get_current_task();
    const __u64 queue = (__u64)BPF_CORE_READ(task, se.cfs_rq, rq);
    __u64 current = 0;
    if (!count_from_queue || !task_from_queue ||
        bpf_probe_read_kernel(&current, sizeof current, (void*)(queue + task_from_queue)) ||
        current != (__u64)task) {
        return 1;
    }
    return queue + count_from_queue;
}

/* The contexts that the CPU is in; all of them if unknown. */
EGRESS_INLINE __u32 interrupts_now(void) {
    struct task_struct* task = bpf_get_current_task_btf();
    if (bpf_core_field_exists(task->thread_info.preempt_count)) {
        return (__u32)task->thread_info.preempt_count; /* some architectures keep it per task */
    }
    const __u32 zero = 0;
    __u32 count = EGRESS_ANY_INTERRUPT;
    __u64* at = bpf_map_lookup_elem(&counts, &zero);
    if (at && !*at) {
        *at = find_count();
    }
    if (!at || *at == 1 || bpf_probe_read_kernel(&count, sizeof count, (void*)*at)) {
        return EGRESS_ANY_INTERRUPT;
    }
    return count;
}

/* The process that is sending; null for other senders (an interrupt, a timer, a kernel thread) or
 * if it is unknown. The kernel answers packets that arrive through a tun device or by busy polling
 * during an unrelated process' system call, but with soft interrupts disabled; no process sends
 * like that.
 */
EGRESS_INLINE struct task_struct* sender_now(void) {
    struct task_struct* task = bpf_get_current_task_btf();
    if (!task->mm || interrupts_now() & EGRESS_ANY_INTERRUPT) {
        return 0;
    }
    if (bpf_core_field_exists(task->softirq_disable_cnt) && task->softirq_disable_cnt) {
        return 0; /* real-time kernels count soft interrupts in the task */
    }
    return task;
}

#endif
