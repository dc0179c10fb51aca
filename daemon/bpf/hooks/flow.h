/* Judges a process' destination when it connects or sends, and a socket's kind when it is created
 * if no later hook sees its address.
 */
#ifndef EGRESS_BPF_FLOW_H
#define EGRESS_BPF_FLOW_H

#include "answer.h"
#include "decide.h"
#include "judge.h"
#include "multipath.h"

#define ECONNREFUSED 111
#define INADDR_LOOPBACK 0x7f000001

/* Takes the calling process and the policy in force; 0: no policy. */
EGRESS_INLINE int begin_case(struct egress_case* found, const struct egress_config* settings) {
    struct task_struct* task = bpf_get_current_task_btf();
    found->owner.started = task->group_leader->start_boottime;
    found->owner.exec_id = task->self_exec_id;
    found->owner.tgid = task->tgid;
    const struct cred* const cred = task->cred;
    found->owner.uid = cred->uid.val;
    found->owner.gid = cred->gid.val;
    found->flow.uid = found->owner.uid;
    found->flow.gid = found->owner.gid;
    found->sends = 1;
    found->kernel = (task->flags & EGRESS_KERNEL_THREAD) != 0;
    struct cgroup* cgroup = task->cgroups->dfl_cgrp;
    found->owner.cgroup = cgroup->kn->id;
    found->owner.cgroup_at = (__u64)cgroup;
    if (settings->jobs) {
        found->owner.job = job_of(found->owner.tgid, found->owner.started, found->kernel);
    }
    /* Read once: everything from here on uses this policy, even if the daemon switches
     * meanwhile. */
    found->generation = *(volatile const __u64*)&settings->generation;
    return found->generation != 0;
}

EGRESS_INLINE void put_v4(struct egress_flow* flow, __u32 address) {
    __u32* words = (__u32*)flow->address;
    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] = address ? address : bpf_htonl(INADDR_LOOPBACK); /* settle() makes it true */
}

EGRESS_INLINE void put_v6(struct egress_flow* flow, __u32 a, __u32 b, __u32 c, __u32 d) {
    __u32* words = (__u32*)flow->address;
    if (a == 0 && b == 0 && c == bpf_htonl(0xffff)) {
        put_v4(flow, d);
        return;
    }
    words[0] = a;
    words[1] = b;
    words[2] = c;
    words[3] = a | b | c | d ? d : bpf_htonl(1);
}

/* Judges the case of a calling process. */
EGRESS_INLINE int judge(struct egress_case* found, const struct egress_config* settings) {
    struct egress_view view = {};
    if (!open_view(&view, found->generation)) {
        egress_lose(EGRESS_LOST_BROKEN);
        return settings->monitor ? EGRESS_PASS : EGRESS_REFUSE;
    }
    if (view.base->has_places && found->sends) {
        egress_place(found);
    }
    decide_fully(found);
    if (found->post) {
        if (!view.base->has_places && found->sends) {
            egress_place(found);
        }
        egress_tell(found);
    }
    if (found->verdict == EGRESS_REFUSE_LOUDLY) {
        bpf_set_retval(-ECONNREFUSED);
        return EGRESS_REFUSE;
    }
    return found->verdict ? EGRESS_PASS : EGRESS_REFUSE;
}

/* Stores a socket's owner with it, for its packets. `passed`: it passed under the case's policy;
 * else it is not judged yet. If nothing can be stored it would escape the next policy, and is
 * refused. */
EGRESS_INLINE int keep_owner(struct egress_socket* kept, struct egress_case* found,
                             const struct egress_config* settings, int passed, int stream) {
    if (!kept) {
        egress_lose(EGRESS_LOST_SOCKET);
        return settings->monitor || !found->generation ? EGRESS_PASS : EGRESS_REFUSE;
    }
    kept->moved |= !stream && kept->started != 0;
    kept->started = found->owner.started;
    kept->exec_id = found->owner.exec_id;
    kept->tgid = found->owner.tgid;
    kept->uid = found->owner.uid;
    kept->gid = found->owner.gid;
    kept->cgroup = found->owner.cgroup;
    kept->cgroup_at = found->owner.cgroup_at;
    kept->named = found->owner.named;
    kept->named_of_job = found->owner.named_of_job;
    put_job(kept, found->owner.job);
    kept->wrote = 1; /* with the connect */
    kept->others = 0;
    /* Datagrams leave during their sender's own call, and are checked then. */
    if (found->sends && (stream || !settings->knows_sender)) {
        egress_place(found);
    }
    kept->in_container = found->flow.in_container;
    kept->checked = bpf_jiffies64();
    kept->passed = passed ? egress_ticket(kept->started, kept->exec_id, found->generation) : 0;
    return EGRESS_PASS;
}

EGRESS_INLINE int keep_connection(struct bpf_sock_addr* ctx, struct egress_case* found,
                                  const struct egress_config* settings, int passed) {
    struct bpf_sock* sk = ctx->sk;
    const __u32 protocol = ctx->protocol;
    if (!sk || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)) {
        return EGRESS_PASS;
    }
    struct egress_socket* const kept =
        bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    const int verdict = keep_owner(kept, found, settings, passed, protocol == IPPROTO_TCP);
    struct mptcp_sock* const whole =
        kept && protocol == IPPROTO_TCP && found->sends ? EGRESS_MULTIPATH_OF(sk) : 0;
    if (whole) {
        keep_multipath_owner(whole, kept);
    }
    if (kept && protocol == IPPROTO_UDP) {
        kept->silent = found->generation && !passed ? EGRESS_SILENT : 0;
    }
    return verdict;
}

/* Takes the owner of the MPTCP socket, if the kernel connects a subflow for it. */
EGRESS_INLINE void begin_subflow(struct bpf_sock_addr* ctx, struct egress_case* found) {
    if (ctx->protocol == IPPROTO_TCP && find_multipath_owner(ctx, &found->owner)) {
        found->flow.uid = found->owner.uid;
        found->flow.gid = found->owner.gid;
        found->flow.in_container = found->owner.in_container;
        found->sends = 0;
        found->kernel = 0;
    }
}

/* Whether a datagram may have more than one receiver. The kernel then gives a copy to the
 * receivers on this host which no packet hook sees. A broadcast address is any, to who does not
 * know the netmask; but the socket must have asked for broadcast before it connects. */
EGRESS_INLINE int may_be_copied(struct bpf_sock* sk, const struct egress_flow* flow) {
    const __u8* const address = flow->address;
    const struct sock_common* const common = &address_of(sk)->__sk_common;
    return egress_is_v4(address) && ((address[12] & 0xf0) == 0xe0 ||
                                     BPF_CORE_READ(common, skc_flags) >>
                                             bpf_core_enum_value(enum sock_flags, SOCK_BROADCAST) &
                                         1);
}

/* Whether this connect() is left unjudged, as it sends nothing and the packet hook judges the first
 * datagram: programs connect datagram sockets only to learn their own address. The kernel's own
 * sockets send when no process does; they are judged here, while it is known who connects. */
static __noinline int sends_nothing(struct bpf_sock_addr* ctx, const struct egress_flow* flow) {
    struct bpf_sock* sk = ctx->sk;
    const __u32 protocol = ctx->protocol;
    if (!sk || ctx->type != SOCK_DGRAM) {
        return 0;
    }
    if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
        return 1; /* each of its packets is judged */
    }
    return protocol == IPPROTO_UDP &&
           !BPF_CORE_READ_BITFIELD_PROBED(address_of(sk), sk_kern_sock) && !may_be_copied(sk, flow);
}

/* The packet hook sees the datagrams of a connected socket as sent to its peer, unless it knows
 * that one was given another address. */
static __noinline int note_elsewhere(struct bpf_sock_addr* ctx) {
    struct bpf_sock* sk = ctx->sk;
    if (!sk || sk->state != EGRESS_ESTABLISHED) {
        return 0;
    }
    struct egress_socket* kept = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (kept && kept->silent && ctx->protocol == IPPROTO_UDP) {
        kept->silent = EGRESS_SILENT_ELSEWHERE;
    }
    return 0;
}

/* Whether this send is an answer. */
static __noinline int sends_answer(struct bpf_sock_addr* ctx, const struct egress_flow* flow) {
    struct egress_peer peer = {.act = EGRESS_PEER_ASKS};
    struct bpf_sock* sk = ctx->sk;
    if (!sk || ctx->protocol != IPPROTO_UDP || !is_answering(sk)) {
        return 0;
    }
    put_destination(&peer, flow);
    take_socket(&peer, sk, bpf_get_socket_cookie(ctx));
    return egress_know_peer(&peer);
}

/* A send that passed: the socket spoke first, or again. */
static __noinline int note_sent(struct bpf_sock_addr* ctx, const struct egress_flow* flow) {
    struct egress_peer peer = {.act = EGRESS_PEER_SENT};
    struct bpf_sock* sk = ctx->sk;
    if (!sk || ctx->protocol != IPPROTO_UDP) {
        return 0;
    }
    put_destination(&peer, flow);
    take_socket(&peer, sk, bpf_get_socket_cookie(ctx));
    return egress_know_peer(&peer);
}

/* The kernel sends what is for 0.0.0.0 to the address that the socket is bound to, or to that of
 * its device. It shall go where it is judged to go, to 127.0.0.1. (:: is ::1 to the kernel.) */
EGRESS_INLINE void settle(struct bpf_sock_addr* ctx, int v6) {
    if (!v6) {
        if (!ctx->user_ip4) {
            ctx->user_ip4 = bpf_htonl(INADDR_LOOPBACK);
        }
    } else if (!ctx->user_ip6[3] && ctx->user_ip6[2] == bpf_htonl(0xffff) && !ctx->user_ip6[1] &&
               !ctx->user_ip6[0]) {
        ctx->user_ip6[3] = bpf_htonl(INADDR_LOOPBACK);
    }
}

EGRESS_INLINE int judge_address(struct bpf_sock_addr* ctx, __u8 hook, int v6) {
    const __u32 zero = 0;
    const int connects = hook == EGRESS_HOOK_CONNECT4 || hook == EGRESS_HOOK_CONNECT6;
    struct egress_case found = {.hook = hook};
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!settings) {
        return EGRESS_PASS;
    }
    int open = begin_case(&found, settings);
    if (connects) {
        begin_subflow(ctx, &found);
    }
    if (open) {
        if (v6) {
            put_v6(&found.flow, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
                   ctx->user_ip6[3]);
        } else {
            put_v4(&found.flow, ctx->user_ip4);
        }
        settle(ctx, v6);
        const __u32 protocol = ctx->protocol;
        found.flow.port = bpf_ntohs((__u16)ctx->user_port);
        found.flow.type = ctx->type;
        found.flow.protocol = protocol == IPPROTO_MPTCP ? IPPROTO_TCP : protocol;
        if (connects && sends_nothing(ctx, &found.flow)) {
            open = 0;
        } else if (!connects && sends_answer(ctx, &found.flow)) {
            return EGRESS_PASS;
        } else {
            egress_count(&looks, hook);
            if (!judge(&found, settings)) {
                return EGRESS_REFUSE;
            }
            note_sent(ctx, &found.flow);
        }
    }
    if (!connects) {
        note_elsewhere(ctx);
    }
    return connects ? keep_connection(ctx, &found, settings, open) : EGRESS_PASS;
}

SEC("cgroup/connect4")
int egress_connect4(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_CONNECT4, 0);
}

SEC("cgroup/connect6")
int egress_connect6(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_CONNECT6, 1);
}

SEC("cgroup/sendmsg4")
int egress_sendmsg4(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_SENDMSG4, 0);
}

SEC("cgroup/sendmsg6")
int egress_sendmsg6(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_SENDMSG6, 1);
}

/* The hooks above see only TCP and UDP. Other sockets are judged by their kind here, and by their
 * packets. */
SEC("cgroup/sock_create")
int egress_create(struct bpf_sock* ctx) {
    const __u32 zero = 0;
    struct egress_case found = {.hook = EGRESS_HOOK_CREATE, .creates = EGRESS_CREATES};
    const __u32 protocol = ctx->protocol;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!settings ||
        (ctx->type != SOCK_RAW &&
         (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_MPTCP))) {
        return EGRESS_PASS;
    }
    const int open = begin_case(&found, settings);
    struct egress_socket* kept = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (keep_owner(kept, &found, settings, 0, 1) == EGRESS_REFUSE) {
        return EGRESS_REFUSE;
    }
    if (!open) {
        return EGRESS_PASS;
    }
    if (ctx->family == AF_INET) {
        /* No destination; this shows the family in the event. */
        put_v4(&found.flow, bpf_htonl(0xffffffff));
    }
    found.flow.type = ctx->type;
    found.flow.protocol = protocol; /* the packets of a raw socket have 8 bits of it, too */
    if (protocol > 255 && ctx->type != SOCK_RAW) {
        found.flow.protocol = 0; /* SMC: its bytes leave by a kernel socket or by none */
        found.creates = EGRESS_CREATES_CLOSED;
    }
    egress_count(&looks, EGRESS_HOOK_CREATE);
    return judge(&found, settings);
}

#endif
