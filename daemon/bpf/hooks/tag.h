/* Identity of a process: recorded at fork and exec, never afterwards. A process can change its
 * name, its arguments and, in a user namespace, the program that /proc shows; these hooks read none
 * of that.
 *
 * The handlers may run twice for one fork or exec (two copies are attached during an upgrade); the
 * second run changes nothing.
 */
#ifndef EGRESS_BPF_TAG_H
#define EGRESS_BPF_TAG_H

#include "container.h"
#include "files.h"
#include "job.h"
#include "kernel.h"
#include "maps.h"
#include "root.h"
#include "sender.h"
#include "verdict.h"

#define EGRESS_KERNEL_THREAD 0x00200000 /* PF_KTHREAD */

static const struct egress_process blank;

EGRESS_INLINE void take_program(struct egress_process* process, struct task_struct* task,
                                struct file* file, const struct egress_config* settings) {
    __u32 flags = process->flags & EGRESS_PROCESS_LOST_LINEAGE;
    flags |= take_file(&process->program, &process->place, file);
    flags |= take_path(&process->path, &process->program, task, file, settings, process->started);
    process->flags = flags;
    bpf_probe_read_kernel(process->command, sizeof process->command, task->comm);
}

/* The entry of a process; a new one if there is none, or if it belongs to an earlier process with
 * this tgid. */
EGRESS_INLINE struct egress_process* entry_of(__u32 tgid, __u64 started, __u32 ppid) {
    struct egress_process* process = bpf_map_lookup_elem(&processes, &tgid);
    if (process && process->started == started) {
        return process;
    }
    if (bpf_map_update_elem(&processes, &tgid, &blank, BPF_ANY)) {
        egress_lose(EGRESS_LOST_PROCESS);
        return 0;
    }
    process = bpf_map_lookup_elem(&processes, &tgid);
    if (process) {
        process->started = started;
        process->tgid = tgid;
        process->ppid = ppid;
        process->flags = EGRESS_PROCESS_LOST_LINEAGE; /* until a fork or the sweep records it */
    }
    return process;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(egress_fork, struct task_struct* parent, struct task_struct* child) {
    const __u32 tgid = child->tgid;
    const __u32 ptgid = parent->tgid;
    if (child->pid != child->tgid) {
        return 0; /* a thread shares its process' entry */
    }
    const __u64 started = child->start_boottime;
    struct egress_process* process = bpf_map_lookup_elem(&processes, &tgid);
    if (process && process->started == started) {
        return 0;
    }
    struct egress_process* from = bpf_map_lookup_elem(&processes, &ptgid);
    if (!from || bpf_map_update_elem(&processes, &tgid, from, BPF_ANY)) {
        if (from) {
            egress_lose(EGRESS_LOST_PROCESS);
        }
        return 0;
    }
    process = bpf_map_lookup_elem(&processes, &tgid);
    if (!process) {
        return 0;
    }
    for (int i = 0; i < EGRESS_SUBJECTS; ++i) {
        process->subjects[i].generation = 0;
    }
    enter_at_birth(process->job);
    process->epoch = 0;
    process->started = started;
    process->exec_id = child->self_exec_id;
    process->tgid = tgid;
    process->ppid = ptgid;
    for (int i = EGRESS_MAX_ANCESTORS - 1; i > 0; --i) {
        process->ancestors[i] = process->ancestors[i - 1];
    }
    process->ancestors[0] = process->program;
    if (process->ancestors_used < EGRESS_MAX_ANCESTORS) {
        ++process->ancestors_used;
    } else {
        process->flags |= EGRESS_PROCESS_LOST_LINEAGE;
    }
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(egress_exec, struct task_struct* task, int old_pid, struct linux_binprm* bprm) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_process* process =
        entry_of(task->tgid, task->group_leader->start_boottime, task->real_parent->tgid);
    if (!process || !settings) {
        return 0;
    }
    const __u64 exec_id = task->self_exec_id;
    if (process->exec_id == exec_id && process->place.bits) {
        return 0;
    }
    /* Exec has ended the other threads of this process, but other CPUs may judge its packets. While
     * the epoch is odd they store no rules, and the new epoch invalidates those that they computed
     * before. */
    __sync_fetch_and_add(&process->epoch, 1);
    take_program(process, task, bprm->file, settings);
    if (task->real_parent->flags & EGRESS_KERNEL_THREAD) {
        process->flags &= ~EGRESS_PROCESS_LOST_LINEAGE; /* the kernel started it */
    }
    process->exec_id = exec_id;
    __sync_fetch_and_add(&process->epoch, 1);
    return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(egress_exit, struct task_struct* task) {
    const __u32 tgid = task->tgid;
    if (task->signal->live.counter != 0) {
        return 0;
    }
    const struct egress_process* const process = bpf_map_lookup_elem(&processes, &tgid);
    const __u32 job = process ? process->job : 0;
    if (bpf_map_delete_elem(&processes, &tgid) == 0) {
        leave_at_death(job);
    }
    return 0;
}

/* Records the namespaces of the host: those of the first process in the daemon's pid namespace. The
 * daemon may have its own mount namespace, and no right to read /proc/1. */
SEC("iter/task")
int egress_host(struct bpf_iter__task* context) {
    const __u32 zero = 0;
    struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct task_struct* task = context->task;
    if (task && settings && context->meta->seq_num == 0) {
        settings->mount_namespace = mount_namespace_of(task);
        settings->pid_namespace = pid_namespace_of(task);
        settings->net_namespace = task->nsproxy->net_ns->ns.inum;
        note_host_root(task);
        settings->knows_sender = sender_now() != 0; /* the daemon's read(2) runs this */
    }
    return 0;
}

/* Marks the process that the iterator was opened for as the one of a self-test. */
SEC("iter/task")
int egress_mark(struct bpf_iter__task* context) {
    const __u32 zero = 0;
    struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct task_struct* task = context->task;
    if (task && settings && task->pid == task->tgid) {
        settings->canary_started = BPF_CORE_READ(task, start_boottime);
        settings->canary_until = bpf_ktime_get_boot_ns() + EGRESS_CANARY_TIME;
        settings->canary_refused = 0;
        settings->canary = task->tgid;
    }
    return 0;
}

/* Records the processes older than the hooks. Never overwrites what a hook has written. */
SEC("iter/task")
int egress_sweep(struct bpf_iter__task* context) {
    struct task_struct* task = context->task;
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!task || !settings || task->pid != task->tgid) {
        return 0;
    }
    const __u32 tgid = task->tgid;
    const __u64 started = BPF_CORE_READ(task, start_boottime);
    struct egress_process* process = bpf_map_lookup_elem(&processes, &tgid);
    struct mm_struct* const mm = BPF_CORE_READ(task, mm);
    if (!mm || (process && process->started == started)) {
        return 0;
    }
    struct file* const file = BPF_CORE_READ(mm, exe_file);
    struct egress_scratch* const room = file ? claim() : 0;
    if (!room) {
        return 0;
    }
    /* Build the entry aside and insert it in one step, unless exec has recorded one meanwhile. */
    process = &room->process;
    bpf_probe_read_kernel(process, sizeof *process, &blank);
    process->started = started;
    process->tgid = tgid;
    process->ppid = BPF_CORE_READ(task, real_parent, tgid);
    process->exec_id = BPF_CORE_READ(task, self_exec_id);
    process->flags = EGRESS_PROCESS_LOST_LINEAGE;
    take_program(process, task, file, settings);
    process->flags |= EGRESS_PROCESS_SWEPT;
    const struct egress_process* const stale = bpf_map_lookup_elem(&processes, &tgid);
    if (stale && stale->started != started) {
        bpf_map_delete_elem(&processes, &tgid);
    }
    if (bpf_map_update_elem(&processes, &tgid, process, BPF_NOEXIST) &&
        !bpf_map_lookup_elem(&processes, &tgid)) {
        egress_lose(EGRESS_LOST_PROCESS);
    }
    release(room);
    return 0;
}

/* Then fills in the ancestors that no fork has recorded, from what the first sweep and the hooks
 * found. */
SEC("iter/task")
int egress_lineage(struct bpf_iter__task* context) {
    struct task_struct* task = context->task;
    if (!task || task->pid != task->tgid) {
        return 0;
    }
    const __u32 tgid = task->tgid;
    struct egress_process* process = bpf_map_lookup_elem(&processes, &tgid);
    if (!process || !(process->flags & EGRESS_PROCESS_LOST_LINEAGE) || process->ancestors_used) {
        return 0;
    }
    const struct task_struct* at = task;
    for (int i = 0; i < EGRESS_MAX_ANCESTORS; ++i) {
        at = BPF_CORE_READ(at, real_parent, group_leader);
        const __u32 number = BPF_CORE_READ(at, tgid);
        if (BPF_CORE_READ(at, flags) & EGRESS_KERNEL_THREAD) {
            process->flags &= ~EGRESS_PROCESS_LOST_LINEAGE;
            return 0;
        }
        const struct egress_process* const ancestor = bpf_map_lookup_elem(&processes, &number);
        if (!ancestor) {
            return 0;
        }
        process->ancestors[i] = ancestor->program;
        process->ancestors_used = i + 1;
    }
    return 0;
}

#endif
