/* The processes whose bytes are queued on a connected TCP socket.
 *
 * What a process writes may leave later, by a timer or an acknowledgement, when no process is
 * sending; and one segment may contain bytes of several processes. So the hooks record each writer
 * with the socket's lock held, before its bytes are queued and can leave. The last writer is the
 * socket's owner. Earlier ones stay in `writers` until the peer has acknowledged their last byte,
 * and a packet passes if all of them may send it.
 *
 * MPTCP has its own queue above the TCP sockets; its writer is recorded when that queue hands bytes
 * down.
 */
#ifndef EGRESS_BPF_WRITER_H
#define EGRESS_BPF_WRITER_H

#include "decide.h"
#include "flow.h"
#include "judge.h"
#include "socket.h"

#define EGRESS_NO_PLACE EGRESS_WRITERS /* number: all are taken */

/* Sequence numbers wrap around. */
EGRESS_INLINE int is_before(__u32 a, __u32 b) {
    return (__s32)(a - b) < 0;
}

/* Judges the case's owner for its packets. If the owner is not sending, its cgroup is the one that
 * it was in when it last used the socket: if that cgroup is gone, and its stored rules are, too,
 * none can be computed. */
EGRESS_INLINE void judge_owner(struct egress_case* found) {
    egress_count(&looks, EGRESS_HOOK_PACKET);
    decide_fully(found);
    if (found->post && found->denies && (is_refused(found) || !found->known)) {
        egress_tell(found);
    }
}

EGRESS_INLINE int is_owner(const struct egress_socket* kept, struct task_struct* task) {
    return kept->tgid == (__u32)task->tgid && kept->started == task->group_leader->start_boottime &&
           kept->exec_id == task->self_exec_id && kept->uid == task->cred->uid.val &&
           kept->gid == task->cred->gid.val && kept->cgroup_at == (__u64)task->cgroups->dfl_cgrp;
}

EGRESS_INLINE int is_same(const struct egress_socket* a, const struct egress_socket* b) {
    return a->job == b->job && a->tgid == b->tgid && a->started == b->started &&
           a->exec_id == b->exec_id && a->uid == b->uid && a->gid == b->gid &&
           a->cgroup == b->cgroup && a->in_container == b->in_container;
}

/* Searches a place for one more process that has bytes queued. */
struct egress_search_place {
    struct egress_writers* all;
    const struct egress_socket* who;
    __u32 acked;
    __u32 fresh; /* the entries are from an earlier connection */
    __u32 at;
};

static long find_place(__u32 number, struct egress_search_place* search) {
    struct egress_writer* writer = &search->all->each[number & (EGRESS_WRITERS - 1)];
    if (search->fresh || !is_before(search->acked, writer->end)) {
        writer->used = 0;
    }
    if (!writer->used) {
        search->at = search->at == EGRESS_NO_PLACE ? number : search->at;
    } else if (is_same(&writer->who, search->who)) {
        search->at = number;
        return 1;
    }
    return 0;
}

/* Adds the owner to the other writers, as another process takes the socket over. Everything queued
 * before `end` is from it or from them. */
static __noinline int put_aside(struct egress_socket* kept, struct egress_writers* all, __u32 acked,
                                __u32 end) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_search_place search = {
        .all = all, .who = kept, .acked = acked, .fresh = !kept->others};
    search.at = EGRESS_NO_PLACE + (__u32)egress_zero(end);
    if (search.fresh) {
        all->more = 0;
    }
    bpf_loop(EGRESS_WRITERS, find_place, &search, 0);
    const __u32 at = search.at + (__u32)egress_zero(end);
    kept->others = 1;
    if (at < EGRESS_NO_PLACE) {
        struct egress_writer* writer = &all->each[at & (EGRESS_WRITERS - 1)];
        writer->who = *kept;
        writer->end = end;
        writer->used = 1;
        return 0;
    }
    /* No place for the writer, only for its verdict: it passes while this policy is in force. */
    const __u64 generation = settings ? settings->generation : 0;
    const int passes = kept->passed == egress_ticket(kept->started, kept->exec_id, generation);
    all->more_passed = passes && (!all->more || all->more_passed == generation) ? generation : 0;
    all->more_end = end;
    all->more = 1;
    return 0;
}

/* Another process takes the socket over. `socket` is `tcp` in the type that the helpers need. */
EGRESS_INLINE void take_from_owner(void* socket, const struct tcp_sock* tcp,
                                   struct egress_socket* kept) {
    const __u32 acked = tcp->snd_una;
    const __u32 end = tcp->write_seq;
    const int queued = kept->wrote && is_before(acked, end);
    kept->wrote = 0;
    if (!queued) {
        return;
    }
    struct egress_writers* all =
        bpf_sk_storage_get(&writers, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (all) {
        put_aside(kept, all, acked, end);
    } else {
        kept->others = 1; /* no entry of theirs will be found: refused */
    }
}

/* The same before a packet of a process that sends without having written: it reads, or flushes
 * what others wrote. */
__noinline int egress_take_over(struct __sk_buff* skb) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    struct egress_socket* kept = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
    struct tcp_sock* tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
    if (kept && tcp) {
        take_from_owner(sk, tcp, kept);
    }
    return 0;
}

EGRESS_INLINE void put_peer_of(struct egress_flow* flow, const struct sock* sk) {
    const struct sock_common* common = &sk->__sk_common;
    if (common->skc_family == AF_INET) {
        put_v4(flow, common->skc_daddr);
    } else {
        __u32 address[4] = {};
        bpf_core_read(address, sizeof address, &common->skc_v6_daddr);
        put_v6(flow, address[0], address[1], address[2], address[3]);
    }
    flow->port = bpf_ntohs(common->skc_dport);
    flow->type = SOCK_STREAM;
    flow->protocol = IPPROTO_TCP;
}

/* Another process than the owner writes. */
static __noinline int change_writer(struct sock* sk, struct egress_socket* kept) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct tcp_sock* tcp = bpf_skc_to_tcp_sock(sk);
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET, .sends = 1};
    if (!settings || !tcp) {
        return 0;
    }
    take_from_owner(sk, tcp, kept);
    kept->passed = 0;
    take_owner(kept, bpf_get_current_task_btf(), settings);
    kept->wrote = 1;
    found.generation = *(volatile const __u64*)&settings->generation;
    if (!found.generation) {
        return 0;
    }
    found.owner = *kept;
    found.flow.uid = kept->uid;
    found.flow.gid = kept->gid;
    found.flow.in_container = kept->in_container;
    put_peer_of(&found.flow, sk);
    judge_owner(&found);
    kept->checked = bpf_jiffies64();
    /* Now, as it may have exited when its bytes leave. */
    kept->passed = is_refused(&found)
                       ? EGRESS_REFUSED
                       : egress_ticket(kept->started, kept->exec_id, found.generation);
    return 0;
}

/* The current task is about to queue bytes, with the lock held. Kernel threads that write for a
 * process (kTLS, KCM) change nothing. */
EGRESS_INLINE int note_writer(struct sock* sk) {
    struct task_struct* task = bpf_get_current_task_btf();
    struct egress_socket* kept = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (!kept || !task->mm) {
        return 0;
    }
    if (!is_owner(kept, task)) {
        return change_writer(sk, kept);
    }
    if (!kept->wrote) {
        kept->wrote = 1;
    }
    return 0;
}

/* Runs for each segment that is written to, hence also after a write has waited for room. From 6.16
 * on. */
SEC("?tp_btf/tcp_sendmsg_locked")
int BPF_PROG(egress_write, struct sock* sk) {
    return note_writer(sk);
}

/* For kernels without the tracepoint that support fentry. */
SEC("?fentry/tcp_sendmsg_locked")
int BPF_PROG(egress_write_fn, struct sock* sk) {
    return note_writer(sk);
}

SEC("?fentry/do_tcp_sendpages") /* until 6.5 */
int BPF_PROG(egress_write_pg, struct sock* sk) {
    return note_writer(sk);
}

SEC("?fexit/sk_stream_wait_memory")
int BPF_PROG(egress_write_on, struct sock* sk) {
    return note_writer(sk);
}

#endif
