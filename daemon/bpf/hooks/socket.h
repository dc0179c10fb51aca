/* Owner of a socket: stored with the socket when it connects, or when the sweep finds it.
 */
#ifndef EGRESS_BPF_SOCKET_H
#define EGRESS_BPF_SOCKET_H

#include "container.h"
#include "kernel.h"
#include "maps.h"
#include "tag.h"

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136
#define IPPROTO_MPTCP 262

/* States of TCP; a connected UDP socket is ESTABLISHED, too. */
#define EGRESS_ESTABLISHED 1
#define EGRESS_SYN_SENT 2
/* FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING */
#define EGRESS_CLOSING_STATES (1 << 4 | 1 << 5 | 1 << 9 | 1 << 11)
#define EGRESS_LISTENS 10

/* In sk_userlocks: bind() was given an address, a port. Accepted sockets do not inherit the second.
 */
#define EGRESS_ADDRESS_CHOSEN 4
#define EGRESS_PORT_CHOSEN 8

/* The address of the socket, as a plain number for the verifier. */
EGRESS_INLINE struct sock* address_of(struct bpf_sock* sk) {
    struct bpf_sock* slot = sk;
    struct sock* address = 0;
    bpf_probe_read_kernel(&address, sizeof address, &slot);
    return address;
}

/* A verdict that lets a socket pass holds for this long, as rules expire and processes change: one
 * second, in kernel ticks, which need no call to read. Set by the loader. */
const volatile __u64 trust_ticks = 0;

#define EGRESS_REFUSED 1 /* instead of a ticket */

/* Who uses the socket; nothing of what it has passed. */
/* What a job has put into the socket may leave it later, under another owner. */
EGRESS_INLINE void put_job(struct egress_socket* kept, __u32 job) {
    kept->job = job;
    kept->used_by_job |= job;
}

EGRESS_INLINE void copy_owner(struct egress_socket* kept, const struct egress_socket* owner) {
    kept->started = owner->started;
    kept->exec_id = owner->exec_id;
    kept->tgid = owner->tgid;
    kept->uid = owner->uid;
    kept->gid = owner->gid;
    kept->in_container = owner->in_container;
    kept->cgroup = owner->cgroup;
    kept->cgroup_at = owner->cgroup_at;
    put_job(kept, owner->job);
}

/* One word for "this process, running this program, under this policy". */
EGRESS_INLINE __u64 egress_ticket(__u64 started, __u64 exec_id, __u64 generation) {
    return started + exec_id * 0xd6e8feb86659fd93ULL + generation * 0x9e3779b97f4a7c15ULL;
}

EGRESS_INLINE void take_owner(struct egress_socket* socket, struct task_struct* task,
                              const struct egress_config* settings) {
    struct cgroup* const cgroup = task->cgroups->dfl_cgrp;
    const struct cred* const cred = task->cred;
    socket->started = task->group_leader->start_boottime;
    socket->exec_id = task->self_exec_id;
    socket->tgid = task->tgid;
    socket->uid = cred->uid.val;
    socket->gid = cred->gid.val;
    socket->cgroup_at = (__u64)cgroup;
    socket->cgroup = cgroup->kn->id;
    socket->in_container = egress_in_container(task, socket->cgroup, settings);
    put_job(socket, settings->jobs ? job_of(socket->tgid, socket->started,
                                            (task->flags & EGRESS_KERNEL_THREAD) != 0)
                                   : 0);
}

/* Whether the socket is the end that called connect(). The kernel marks a port that connect() chose
 * in its table of ports; the flag of a port given to bind() does not pass to accepted sockets. A
 * socket bound to an address but no port before it connected is taken for an accepted one: to cut
 * off a server's clients would be worse. */
EGRESS_INLINE int has_connected(struct tcp_sock* tcp, int state) {
    if (state == EGRESS_LISTENS) {
        return 0;
    }
    if (state == EGRESS_SYN_SENT) {
        return 1;
    }
    const struct sock* sk = &tcp->inet_conn.icsk_inet.sk;
    return (BPF_CORE_READ_BITFIELD(sk, sk_userlocks) & EGRESS_PORT_CHOSEN) ||
           tcp->inet_conn.icsk_bind_hash->fastreuse < 0;
}

/* Records the owners of sockets older than the hooks. Never overwrites what a hook has written. */
SEC("iter/task_file")
int egress_sockets(struct bpf_iter__task_file* context) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct task_struct* task = context->task;
    struct file* file = context->file;
    if (!settings || !task || !file) {
        return 0;
    }
    struct socket* socket = bpf_sock_from_file(file);
    struct sock* sk = socket ? socket->sk : 0;
    if (!sk) {
        return 0;
    }
    const int family = sk->__sk_common.skc_family;
    const int state = sk->__sk_common.skc_state;
    if (family != AF_INET && family != AF_INET6) {
        return 0;
    }
    if (sk->sk_type != SOCK_RAW && sk->sk_protocol == IPPROTO_UDP && state != EGRESS_ESTABLISHED) {
        return 0;
    }
    if (sk->sk_type != SOCK_RAW && sk->sk_protocol == IPPROTO_TCP) {
        struct tcp_sock* tcp = bpf_skc_to_tcp_sock(sk);
        if (!tcp || !has_connected(tcp, state)) {
            return 0;
        }
    }
    struct egress_socket* kept = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!kept) {
        egress_lose(EGRESS_LOST_SOCKET);
        return 0;
    }
    if (!kept->started) {
        take_owner(kept, task, settings);
        kept->wrote = sk->sk_protocol == IPPROTO_TCP;
    }
    return 0;
}

#endif
