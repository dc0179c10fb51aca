/* Whether a process is in a container: by its pid namespace, and by its cgroup.
 *
 * A cgroup2 directory cannot get another name or another parent, and its id is never reused: a
 * result stays true, so that each cgroup's names are compared once.
 */
#ifndef EGRESS_BPF_CONTAINER_H
#define EGRESS_BPF_CONTAINER_H

#include "kernel.h"
#include "maps.h"
#include "verdict.h"

#include "daemon/bpf/container_name.h" /* after what has defined EGRESS_INLINE */

#define EGRESS_MAX_NESTING 4096 /* cgroups walked outwards; deeper counts as in a container */

/* Id of the outermost cgroup that the daemon can see, whose own name means nothing. Set by the
 * loader. */
const volatile __u64 host_cgroup = 0;

/* By id of a cgroup: whether it, or one around it, is a container's. Not pinned: it can be computed
 * again. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, __u32);
} contained SEC(".maps");

/* What the verifier checks once, and not for each way that leads to it. */
struct egress_cgroup_name {
    char text[EGRESS_NAME_SIZE] __attribute__((aligned(8)));
};

__noinline int egress_kind_of_cgroup(const struct egress_cgroup_name* name) {
    return name ? egress_kind_of_name(name->text) : EGRESS_NAME_CONTAINER;
}

__noinline int egress_cgroup_before_id(const struct egress_cgroup_name* name) {
    return name ? egress_before_id(name->text) : 0;
}

__noinline int egress_is_cgroup_id(const struct egress_cgroup_name* name) {
    return name ? egress_is_id(name->text) : 1;
}

struct egress_nesting {
    __u64 at;      /* address of the cgroup */
    __u32 inner;   /* egress_name_kind of the one below */
    __u32 outside; /* the outermost was passed */
};

static long step_outwards(__u32 number, struct egress_nesting* nesting) {
    const struct cgroup* const at = (const struct cgroup*)nesting->at;
    struct egress_cgroup_name name = {};
    if (!at || BPF_CORE_READ(at, kn, id) == host_cgroup) {
        nesting->outside = 1;
        return 1;
    }
    const char* const from = BPF_CORE_READ(at, kn, name);
    bpf_probe_read_kernel_str(name.text, sizeof name.text, from);
    const __u32 kind = egress_kind_of_cgroup(&name);
    if (egress_is_containers(kind, nesting->inner)) {
        return 1;
    }
    const __u32 before = egress_cgroup_before_id(&name);
    if (before) {
        bpf_probe_read_kernel_str(name.text, sizeof name.text, from + before);
    }
    if (egress_is_cgroup_id(&name)) {
        return 1;
    }
    nesting->inner = kind;
    nesting->at = (__u64)BPF_CORE_READ(at, self.parent); /* its first member */
    return 0;
}

/* Computes this for the cgroup at this address, and keeps it by the id that is read there: the one
 * that the caller has may be of the cgroup that the task has just left. The verifier checks it once
 * for all callers. */
__noinline int egress_find_container(__u64 address) {
    const __u64 id = BPF_CORE_READ((const struct cgroup*)address, kn, id);
    struct egress_nesting nesting = {
        .at = address,
        .inner = EGRESS_NAME_OTHER + (__u32)egress_zero(id),
        .outside = (__u32)egress_zero(id),
    };
    bpf_loop(EGRESS_MAX_NESTING, step_outwards, &nesting, 0);
    const __u32 inside = nesting.outside + (__u32)egress_zero(id) ? 0 : 1;
    bpf_map_update_elem(&contained, &id, &inside, BPF_ANY);
    return inside;
}

EGRESS_INLINE __u32 mount_namespace_of(struct task_struct* task) {
    return task->nsproxy->mnt_ns->ns.inum;
}

EGRESS_INLINE __u32 pid_namespace_of(struct task_struct* task) {
    const __u32 level = task->thread_pid->level;
    struct pid* pid = BPF_CORE_READ(task, thread_pid); /* 6.1 needs a plain number to add to */
    struct pid_namespace* ns = 0;
    if (level < 32) {
        bpf_probe_read_kernel(&ns, sizeof ns,
                              (void*)pid + bpf_core_field_offset(struct pid, numbers) +
                                  level * bpf_core_type_size(struct upid) +
                                  bpf_core_field_offset(struct upid, ns));
    }
    return BPF_CORE_READ(ns, ns.inum);
}

/* `id`: of the task's cgroup. */
EGRESS_INLINE int egress_in_container(struct task_struct* task, __u64 id,
                                      const struct egress_config* settings) {
    /* Services have mount namespaces of their own, too. */
    if (pid_namespace_of(task) != settings->pid_namespace) {
        return 1;
    }
    const __u32* const known = bpf_map_lookup_elem(&contained, &id);
    return known ? *known : egress_find_container((__u64)BPF_CORE_READ(task, cgroups, dfl_cgrp));
}

#endif
