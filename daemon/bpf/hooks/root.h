/* The root directory that the host's paths start at: that of the first process in the daemon's pid
 * namespace.
 */
#ifndef EGRESS_BPF_ROOT_H
#define EGRESS_BPF_ROOT_H

#include "container.h"
#include "kernel.h"
#include "maps.h"

/* Addresses, which only compare. */
struct egress_root {
    __u64 mount;
    __u64 dentry;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct egress_root);
} host_root SEC(".maps");

static __noinline int note_host_root(struct task_struct* task) {
    const __u32 zero = 0;
    struct egress_root* const root = bpf_map_lookup_elem(&host_root, &zero);
    if (root && task) {
        root->mount = (__u64)BPF_CORE_READ(task, fs, root.mnt);
        root->dentry = (__u64)BPF_CORE_READ(task, fs, root.dentry);
    }
    return 0;
}

/* Whether a path means to the calling process what it means to the host, and goes on to until the
 * kernel has followed it. In a user namespace of its own a thread could change the root directory
 * of another one meanwhile; elsewhere only root can.
 */
static __noinline int sees_host(const struct egress_config* settings) {
    const __u32 zero = 0;
    struct task_struct* const task = (void*)bpf_get_current_task();
    const struct egress_root* const root = bpf_map_lookup_elem(&host_root, &zero);
    return settings && root && root->dentry &&
           BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) == settings->mount_namespace &&
           (__u64)BPF_CORE_READ(task, fs, root.mnt) == root->mount &&
           (__u64)BPF_CORE_READ(task, fs, root.dentry) == root->dentry &&
           BPF_CORE_READ(task, cred, user_ns, level) == 0;
}

#endif
