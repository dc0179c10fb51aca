/* Who a process is: taken when it is forked and when it executes, never afterwards. A process can
 * change its name, its arguments and, in a user namespace, what /proc shows as its program; none of
 * that is read here.
 *
 * The handlers may run twice for one event (during an upgrade two copies are attached) and say the
 * same both times.
 */
#ifndef EGRESS_BPF_TAG_H
#define EGRESS_BPF_TAG_H

#include "container.h"
#include "kernel.h"
#include "maps.h"
#include "sender.h"
#include "verdict.h"

#define EGRESS_MAX_COMPONENTS 64 /* directories and mounts between a program and its root */

static const struct egress_process blank;

/* Room to write a path from its end to its start. Twice the size, so that the verifier sees every
 * write inside. */
struct egress_scratch {
    char text[2 * EGRESS_PATH_SIZE];
    struct egress_name name;
};
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct egress_scratch);
} scratch SEC(".maps");

struct egress_walk {
    struct dentry* dentry;
    struct mount* mount;
    struct dentry* root; /* where to stop; null: at the namespace's own root */
    struct vfsmount* root_mount;
    __u32 at;    /* first byte that is written; the text ends at EGRESS_PATH_SIZE - 1 */
    __u32 whole; /* the root was reached */
};

/* One step of the walk from the file up to the root: writes a component, or crosses a mount. Not 0:
 * done. */
static long walk_up(__u32 step, struct egress_walk* walk) {
    const __u32 zero = 0;
    struct egress_scratch* into = bpf_map_lookup_elem(&scratch, &zero);
    struct dentry* const dentry = walk->dentry;
    struct mount* const inner = walk->mount;
    struct vfsmount* const mount = (void*)inner + bpf_core_field_offset(struct mount, mnt);
    if (!into || (dentry == walk->root && mount == walk->root_mount)) {
        walk->whole = 1;
        return 1;
    }
    struct dentry* const parent = BPF_CORE_READ(dentry, d_parent);
    struct dentry* const top = BPF_CORE_READ(mount, mnt_root);
    if (dentry == top || dentry == parent) {
        struct mount* const outer = BPF_CORE_READ(inner, mnt_parent);
        if (outer == inner || dentry != top) {
            walk->whole = 1; /* the root of the namespace, or a file outside of any (memfd) */
            return 1;
        }
        walk->dentry = BPF_CORE_READ(inner, mnt_mountpoint);
        walk->mount = outer;
        return 0;
    }
    const __u32 length = BPF_CORE_READ(dentry, d_name.len);
    if (length + 1 > walk->at || length >= EGRESS_PATH_SIZE) {
        return 1; /* longer than what any rule can name */
    }
    walk->at -= length + 1;
    const __u32 at = walk->at & (EGRESS_PATH_SIZE - 1);
    into->text[at] = '/';
    bpf_probe_read_kernel(&into->text[at + 1], length & (EGRESS_PATH_SIZE - 1),
                          BPF_CORE_READ(dentry, d_name.name));
    walk->dentry = parent;
    return 0;
}

/* The path of a file in the process' table entry; "" where it is too long. */
EGRESS_INLINE void take_path(struct egress_process* process, struct task_struct* task,
                             struct file* file, const struct egress_config* settings) {
    const __u32 zero = 0;
    struct egress_scratch* into = bpf_map_lookup_elem(&scratch, &zero);
    if (!into) {
        return;
    }
    struct vfsmount* const mount = BPF_CORE_READ(file, f_path.mnt);
    struct egress_walk walk = {
        .dentry = BPF_CORE_READ(file, f_path.dentry),
        .mount = (void*)mount - bpf_core_field_offset(struct mount, mnt),
        .at = EGRESS_PATH_SIZE - 1 + egress_zero(process->started),
    };
    /* On the host the walk goes to the very root, past what chroot(2) pretends: in a user namespace
     * everybody may call it. Elsewhere the process' root is the best that there is. */
    process->flags &= ~EGRESS_PROCESS_HOST_PATH;
    if (mount_namespace_of(task) == settings->mount_namespace) {
        process->flags |= EGRESS_PROCESS_HOST_PATH;
    } else {
        walk.root = BPF_CORE_READ(task, fs, root.dentry);
        walk.root_mount = BPF_CORE_READ(task, fs, root.mnt);
    }
    __u32 length = 0;
    __builtin_memset(process->path.path, 0, sizeof process->path.path);
    bpf_loop(EGRESS_MAX_COMPONENTS, walk_up, &walk, 0);
    if (walk.whole + (__u32)egress_zero(process->started)) {
        const __u32 at = walk.at & (EGRESS_PATH_SIZE - 1);
        length = EGRESS_PATH_SIZE - 1 - at;
        into->text[EGRESS_PATH_SIZE - 1] = 0;
        bpf_probe_read_kernel(process->path.path, (length & (EGRESS_PATH_SIZE - 1)),
                              &into->text[at]);
    }
    process->path.bits = length ? (length + 1) * 8 : 0;
    if (length) {
        __builtin_memcpy(into->name.path, process->path.path, sizeof into->name.path);
        bpf_map_update_elem(&names, &process->program, &into->name, BPF_ANY);
    }
}

EGRESS_INLINE void take_program(struct egress_process* process, struct file* file) {
    process->program.inode = BPF_CORE_READ(file, f_inode, i_ino);
    process->program.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
}

/* The entry of a process; a new one where there is none, or one of a process that had the tgid
 * before. */
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
    const __u64 started = BPF_CORE_READ(child, start_boottime);
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
    process->subjects[0].generation = 0;
    process->subjects[1].generation = 0;
    process->started = started;
    process->exec_id = 0;
    process->tgid = tgid;
    process->ppid = ptgid;
    for (int i = EGRESS_MAX_ANCESTORS - 1; i > 0; --i) {
        process->ancestors[i] = process->ancestors[i - 1];
    }
    process->ancestors[0] = process->program;
    if (process->ancestors_used < EGRESS_MAX_ANCESTORS) {
        ++process->ancestors_used;
    }
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(egress_exec, struct task_struct* task, int old_pid, struct linux_binprm* bprm) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct task_struct* const leader = BPF_CORE_READ(task, group_leader);
    struct egress_process* process = entry_of(task->tgid, BPF_CORE_READ(leader, start_boottime),
                                              BPF_CORE_READ(task, real_parent, tgid));
    if (!process || !settings) {
        return 0;
    }
    const __u64 exec_id = BPF_CORE_READ(task, self_exec_id);
    if (process->exec_id == exec_id) {
        return 0;
    }
    /* Nobody else runs in this process now: exec has ended its other threads. */
    process->subjects[0].generation = 0;
    process->subjects[1].generation = 0;
    process->flags &= ~EGRESS_PROCESS_SWEPT;
    struct file* const file = BPF_CORE_READ(bprm, file);
    take_program(process, file);
    take_path(process, task, file, settings);
    /* The kernel has just set the name from what exec was given; nobody could change it since. */
    bpf_probe_read_kernel(process->command, sizeof process->command, task->comm);
    process->exec_id = exec_id;
    return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(egress_exit, struct task_struct* task) {
    const __u32 tgid = task->tgid;
    if (BPF_CORE_READ(task, signal, live.counter) == 0) {
        bpf_map_delete_elem(&processes, &tgid);
    }
    return 0;
}

/* What the host is: the namespaces of the first process that the daemon's own pid namespace shows.
 * The daemon itself may have a mount namespace of its own, and may not look at /proc/1. */
SEC("iter/task")
int egress_host(struct bpf_iter__task* context) {
    const __u32 zero = 0;
    struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct task_struct* task = context->task;
    if (task && settings && context->meta->seq_num == 0) {
        settings->mount_namespace = mount_namespace_of(task);
        settings->pid_namespace = pid_namespace_of(task);
        settings->knows_sender = sender_now() != 0; /* we do: the daemon reads */
    }
    return 0;
}

/* Marks the process that the iteration was asked for as the one that tests the hooks. */
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

/* For the processes that were there before the hooks. Never overwrites what a hook has written. */
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
    process = entry_of(tgid, started, BPF_CORE_READ(task, real_parent, tgid));
    struct file* const file = BPF_CORE_READ(mm, exe_file);
    if (!process || !file) {
        return 0;
    }
    process->flags |= EGRESS_PROCESS_SWEPT;
    take_program(process, file);
    take_path(process, task, file, settings);
    bpf_probe_read_kernel(process->command, sizeof process->command, task->comm);
    const struct task_struct* at = task;
    for (int i = 0; i < EGRESS_MAX_ANCESTORS; ++i) {
        at = BPF_CORE_READ(at, real_parent, group_leader);
        struct file* const program = BPF_CORE_READ(at, mm, exe_file);
        if (!program) {
            break;
        }
        process->ancestors[i].inode = BPF_CORE_READ(program, f_inode, i_ino);
        process->ancestors[i].device = BPF_CORE_READ(program, f_inode, i_sb, s_dev);
        process->ancestors_used = i + 1;
        if (BPF_CORE_READ(at, tgid) == 1) {
            break;
        }
    }
    process->exec_id = BPF_CORE_READ(task, self_exec_id);
    return 0;
}

#endif
