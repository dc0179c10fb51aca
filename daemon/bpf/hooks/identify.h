/* Whose packet it is, and where it goes: what is to be known before it can be judged. */
#ifndef EGRESS_BPF_IDENTIFY_H
#define EGRESS_BPF_IDENTIFY_H

#include "decide.h"
#include "flow.h"
#include "header.h"
#include "multipath.h"
#include "sender.h"
#include "socket.h"

#define EGRESS_UNDECIDED 3

/* Sockets of the kernel: their packets belong to no process, whichever is current. The subflows of
 * MPTCP belong to a process. */
EGRESS_INLINE int is_kernels(struct bpf_sock* sk) {
    struct sock* const address = address_of(sk);
    if (!BPF_CORE_READ_BITFIELD_PROBED(address, sk_kern_sock)) {
        return 0;
    }
    return !(BPF_CORE_READ(address, sk_protocol) == IPPROTO_TCP &&
             bpf_core_field_exists(((struct tcp_sock*)0)->is_mptcp) &&
             BPF_CORE_READ_BITFIELD_PROBED((struct tcp_sock*)address, is_mptcp));
}

enum egress_packet_kind {
    EGRESS_PACKET_FREE = 0,      /* judged by other hooks or not at all */
    EGRESS_PACKET_CONNECTED = 1, /* by the socket's peer */
    EGRESS_PACKET_OTHER = 2,     /* by its header */
    EGRESS_PACKET_ROUTED = 3,    /* by every address on its route */
};

EGRESS_INLINE int kind_of(struct bpf_sock* sk) {
    const __u32 protocol = sk->protocol;
    const __u32 state = sk->state;
    if (sk->type == SOCK_RAW) {
        return EGRESS_PACKET_OTHER;
    }
    if (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE) {
        return state == EGRESS_ESTABLISHED ? EGRESS_PACKET_CONNECTED : EGRESS_PACKET_FREE;
    }
    if (protocol == IPPROTO_TCP) {
        return state != EGRESS_LISTENS ? EGRESS_PACKET_CONNECTED : EGRESS_PACKET_FREE;
    }
    return EGRESS_PACKET_OTHER;
}

/* The address that the socket is connected to. */
EGRESS_INLINE void put_peer(struct egress_flow* flow, struct bpf_sock* sk) {
    if (sk->family == AF_INET) {
        put_v4(flow, sk->dst_ip4);
    } else {
        put_v6(flow, sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2], sk->dst_ip6[3]);
    }
    flow->port = bpf_ntohs(sk->dst_port);
    flow->protocol = sk->protocol;
}

/* Writes the socket's owner; 0: no process to judge. */
EGRESS_INLINE int find_owner(struct egress_socket* owner, const struct egress_socket* kept,
                             struct task_struct* task, const struct egress_config* settings) {
    if (task) {
        take_owner(owner, task, settings);
        return 1;
    }
    if (kept && kept->started) {
        *owner = *kept;
        return 1;
    }
    return 0;
}

/* Fills in owner and flow. Returns EGRESS_REFUSE or EGRESS_PASS if that already decides. */
__noinline int egress_identify(struct __sk_buff* skb, struct egress_case* found, int kind) {
    const __u32 zero = 0;
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!sk || !settings || !found) {
        return EGRESS_PASS;
    }
    struct task_struct* task = sender_now();
    if (task && is_kernels(sk)) {
        task = 0;
    }
    struct egress_socket* kept = bpf_sk_storage_get(
        &sockets, sk, 0, task && kind == EGRESS_PACKET_CONNECTED ? BPF_SK_STORAGE_GET_F_CREATE : 0);
    if (task && kept && kind == EGRESS_PACKET_CONNECTED && !is_owner(kept, task)) {
        egress_take_over(skb);
    }
    if (!find_owner(&found->owner, kept, task, settings)) {
        /* The kernel's own, or an answer of a server that no process is sending. */
        return kind == EGRESS_PACKET_ROUTED && !is_kernels(sk) ? EGRESS_REFUSE : EGRESS_PASS;
    }
    /* Read once: everything from here on uses this policy, even if the daemon switches
     * meanwhile. */
    found->generation = *(volatile const __u64*)&settings->generation;
    found->owner.passed =
        egress_ticket(found->owner.started, found->owner.exec_id, found->generation);
    found->known = kept && kept->passed == found->owner.passed;
    found->again = kept && kept->passed == EGRESS_REFUSED && kept->started == found->owner.started;
    found->owner.named = kept && kind == EGRESS_PACKET_CONNECTED ? kept->named : 0;
    found->owner.named_of_job = kept && kind == EGRESS_PACKET_CONNECTED ? kept->named_of_job : 0;
    if (kept && kind == EGRESS_PACKET_CONNECTED && sk->protocol == IPPROTO_UDP) {
        found->silent = kept->silent;
        if (found->silent == EGRESS_SILENT_ELSEWHERE) {
            kept->silent = EGRESS_SILENT;
        }
    }
    const int ended = !task && !process_of(&found->owner);
    if (ended && kept && (kept->passed == EGRESS_REFUSED || kind == EGRESS_PACKET_ROUTED)) {
        return EGRESS_REFUSE; /* else its exit would release what it may not send */
    }
    if (ended && kept &&
        (found->known || (sk->type == SOCK_STREAM && EGRESS_CLOSING_STATES >> sk->state & 1))) {
        kept->checked = bpf_jiffies64();
        return EGRESS_PASS; /* data that the process left queued when it exited */
    }
    found->sends = task != 0;
    found->flow.uid = found->owner.uid;
    found->flow.gid = found->owner.gid;
    found->flow.in_container = found->owner.in_container;
    found->flow.type = sk->type;
    if (kind == EGRESS_PACKET_CONNECTED) {
        put_peer(&found->flow, sk);
        /* A concurrent connect or disconnect sets `moved` before it changes the address. */
        __asm__ volatile("" ::: "memory");
        const int moved = sk->state != EGRESS_ESTABLISHED || (kept && kept->moved);
        if (sk->type != SOCK_STREAM && moved && !read_header(skb, &found->flow)) {
            return EGRESS_REFUSE;
        }
    } else if (!read_header(skb, &found->flow)) {
        return EGRESS_REFUSE;
    }
    return EGRESS_UNDECIDED;
}

#endif
