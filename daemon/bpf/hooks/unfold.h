/* Flushes folded counts of processes that have exited or gone quiet: no later event will report
 * them. The daemon walks over the folds from time to time, and each count that is due becomes an
 * event here.
 */
#ifndef EGRESS_BPF_UNFOLD_H
#define EGRESS_BPF_UNFOLD_H

#include "maps.h"

/* The process, if it is still the one that was checked. */
EGRESS_INLINE const struct egress_process* folded_process(__u32 tgid,
                                                          const struct egress_fold* fold) {
    const struct egress_process* process = bpf_map_lookup_elem(&processes, &tgid);
    return process && fold->started && process->started == fold->started ? process : 0;
}

EGRESS_INLINE void fill_process(struct egress_event* event, const struct egress_fold* fold) {
    const struct egress_process* const process = folded_process(event->tgid, fold);
    event->known = process         ? EGRESS_KNOWN_PROCESS
                   : fold->started ? EGRESS_KNOWN_PROGRAM
                                   : EGRESS_KNOWN_NOTHING;
    event->ppid = fold->ppid;
    event->program = fold->program;
    event->ancestors_used = 0;
    __builtin_memset(event->path, 0, sizeof event->path);
    __builtin_memset(event->hostname, 0, sizeof event->hostname);
    __builtin_memcpy(event->comm, fold->comm, sizeof event->comm);
    if (process) {
        event->ancestors_used = process->ancestors_used;
        __builtin_memcpy(event->ancestors, process->ancestors, sizeof event->ancestors);
    }
    if (fold->started) {
        /* The process may run another program by now. */
        const struct egress_file program = fold->program;
        const struct egress_name* name = bpf_map_lookup_elem(&paths, &program);
        if (name) {
            __builtin_memcpy(event->path, name->path, sizeof event->path);
        }
    }
}

#define EGRESS_FOLDS_KEPT 3 /* intervals without a repeat before a fold is removed */

/* If the ring is full, the count stays for the next walk: every repeat is reported exactly once. */
EGRESS_INLINE int unfold(struct bpf_iter__bpf_map_elem* context, int all) {
    const struct egress_fold_key* const key = context->key;
    struct egress_fold* const fold = context->value;
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!key || !fold || !settings) {
        return 0;
    }
    const __u64 now = bpf_ktime_get_boot_ns();
    if (!fold->count) {
        /* Removal takes two walks: a hook that found the fold before may still count in it, and the
         * second walk reports that. */
        if (now - fold->sent > EGRESS_FOLDS_KEPT * settings->fold_interval) {
            if (fold->ends) {
                const struct egress_fold_key gone = *key;
                bpf_map_delete_elem(&folds, &gone);
            } else {
                fold->ends = 1;
            }
        }
        return 0;
    }
    if (!all && now - fold->sent < settings->fold_interval) {
        return 0;
    }
    struct egress_event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) {
        return 0;
    }
    event->count = __sync_lock_test_and_set(&fold->count, 0);
    if (!event->count) {
        bpf_ringbuf_discard(event, 0); /* a check has reported it meanwhile */
        return 0;
    }
    fold->sent = now;
    event->sequence = __sync_fetch_and_add((__u64*)&settings->sequence, 1) + 1;
    event->time = now;
    event->generation = fold->generation;
    event->cgroup = fold->cgroup;
    event->named = fold->named;
    __builtin_memcpy(event->flow.address, key->address, sizeof event->flow.address);
    event->flow.port = key->port;
    event->flow.type = fold->type;
    event->flow.protocol = key->protocol;
    event->flow.uid = key->uid;
    event->flow.gid = fold->gid;
    event->flow.in_container = fold->in_container;
    event->rule = key->rule;
    event->pid = fold->pid;
    event->tgid = key->tgid;
    event->action = key->action;
    event->hook = fold->hook;
    event->rule_flags = fold->rule_flags;
    event->job = fold->job;
    fill_process(event, fold);
    bpf_ringbuf_submit(event, 0);
    return 0;
}

SEC("iter/bpf_map_elem")
int egress_unfold(struct bpf_iter__bpf_map_elem* context) {
    return unfold(context, 0);
}

SEC("iter/bpf_map_elem")
int egress_unfold_all(struct bpf_iter__bpf_map_elem* context) {
    return unfold(context, 1);
}

#endif
