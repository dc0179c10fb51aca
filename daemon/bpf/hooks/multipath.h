/* Owners of MPTCP connections.
 *
 * An MPTCP socket sends by TCP sockets that the kernel makes for it, its subflows. The process
 * itself connects the first one. The others are connected by a thread of the kernel or a daemon, to
 * an address that the peer may have chosen: they are judged as the process that has the socket. So
 * the owner is stored with the MPTCP socket, too.
 */
#ifndef EGRESS_BPF_MULTIPATH_H
#define EGRESS_BPF_MULTIPATH_H

#include "container.h"
#include "kernel.h"
#include "maps.h"
#include "socket.h"

/* The MPTCP socket of a subflow; null: it is none. Kernels without MPTCP lack the helper's type,
 * too. */
#define EGRESS_MULTIPATH_OF(sk)                                                                    \
    (bpf_core_field_exists(((struct tcp_sock*)0)->is_mptcp) ? bpf_skc_to_mptcp_sock(sk) : 0)

/* The owner that the socket's state shows, if no hook has stored one: an accepted connection.
 * Its process is unknown, so all refusals apply that might. */
EGRESS_INLINE void take_stranger(struct egress_socket* owner, struct mptcp_sock* connection) {
    struct sock* const sk = &connection->sk.icsk_inet.sk;
    struct cgroup* const cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);
    const struct cred* const cred = BPF_CORE_READ(sk, sk_socket, file, f_cred);
    owner->started = 0;
    owner->exec_id = 0;
    owner->tgid = 0;
    owner->uid = BPF_CORE_READ(sk, sk_uid.val);
    owner->gid = cred ? BPF_CORE_READ(cred, gid.val) : 0;
    owner->cgroup_at = (__u64)cgroup;
    owner->cgroup = BPF_CORE_READ(cgroup, kn, id);
    owner->in_container = egress_find_container(owner->cgroup_at);
    owner->job = 0;
}

/* The connect of a further subflow: replaces the owner by the MPTCP socket's, and returns 1. */
static __noinline int find_multipath_owner(struct bpf_sock_addr* ctx, struct egress_socket* owner) {
    struct bpf_sock* sk = ctx->sk;
    struct mptcp_sock* connection = sk ? EGRESS_MULTIPATH_OF(sk) : 0;
    if (!connection || BPF_CORE_READ(connection, first) == address_of(sk) ||
        BPF_CORE_READ_BITFIELD_PROBED(&connection->sk.icsk_inet.sk, sk_kern_sock)) {
        return 0;
    }
    const struct egress_socket* kept = bpf_sk_storage_get(&sockets, connection, 0, 0);
    if (kept && kept->started) {
        *owner = *kept;
    } else {
        take_stranger(owner, connection);
    }
    return 1;
}

/* Stores the owner with the MPTCP socket of this subflow. */
EGRESS_INLINE void keep_multipath_owner(struct mptcp_sock* connection,
                                        const struct egress_socket* owner) {
    struct egress_socket* const kept =
        bpf_sk_storage_get(&sockets, connection, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (kept) {
        copy_owner(kept, owner);
    }
}

#endif
