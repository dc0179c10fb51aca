/* The packets themselves: the backstop behind the other hooks.
 *
 * This hook judges what no other hook has judged, or not for this policy, or not for this process:
 *
 *   connected TCP           by the address that the socket is connected to, when the policy has
 *                           changed since the connect, or another program uses the socket
 *   connected UDP           the same, and the first datagram, as connect() sends none
 *   raw, ping, SCTP...      each packet, by its own header
 *   UDP that is not         never: the sendmsg hooks see each send
 *   connected
 *   accepted TCP            never: answers of a server
 *   UDP to a peer that      never, as answers of a server (answer.h)
 *   spoke first
 *
 * A datagram in the name of another user's socket is refused (forged.h). A connection inside this
 * host is judged by the address that it comes from, too, if that may be another host's.
 *
 * The header of a connected socket's packet does not count: after address translation it has
 * another address than the program connected to. But a packet of any socket that carries a route
 * (route.h) is first judged by every address on it.
 */
#ifndef EGRESS_BPF_PACKET_H
#define EGRESS_BPF_PACKET_H

#include "decide.h"
#include "flow.h"
#include "forged.h"
#include "header.h"
#include "identify.h"
#include "judge.h"
#include "multipath.h"
#include "route.h"
#include "socket.h"
#include "stream.h"
#include "writer.h"

/* Replaces the socket's destination by the header's; 0: they are the same. */
__noinline int egress_readdress(struct __sk_buff* skb, struct egress_case* found) {
    struct egress_flow flow = {};
    if (!found || !read_header(skb, &flow) || flow.protocol != found->flow.protocol) {
        return 0;
    }
    const __u64* const a = (const __u64*)flow.address;
    __u64* const b = (__u64*)found->flow.address;
    if (a[0] == b[0] && a[1] == b[1] && flow.port == found->flow.port) {
        return 0;
    }
    b[0] = a[0];
    b[1] = a[1];
    found->flow.port = flow.port;
    return 1;
}

EGRESS_INLINE void note(struct egress_socket* kept, const struct egress_socket* owner,
                        __u64 passed) {
    kept->passed = 0;
    copy_owner(kept, owner);
    kept->checked = bpf_jiffies64();
    kept->passed = passed;
}

/* Stores the verdict with the socket. */
__noinline int egress_note(struct __sk_buff* skb, struct egress_case* found) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk || !found) {
        return 0;
    }
    struct egress_socket* kept = bpf_sk_storage_get(&sockets, sk, 0, 0);
    if (kept) {
        note(kept, &found->owner, is_refused(found) ? EGRESS_REFUSED : found->owner.passed);
        if (sk->protocol == IPPROTO_UDP) {
            kept->silent = 0;
        }
    }
    struct mptcp_sock* const whole =
        sk->protocol == IPPROTO_TCP && found->sends ? EGRESS_MULTIPATH_OF(sk) : 0;
    if (whole) {
        keep_multipath_owner(whole, &found->owner);
    }
    put_peer(&found->flow, sk);
    if (sk->protocol == IPPROTO_UDP) {
        /* Also if it is refused: the firewall has seen the datagram already, and may let in what
         * the peer sends back. That is no question. */
        struct egress_peer peer = {.act = EGRESS_PEER_SENT};
        put_destination(&peer, &found->flow);
        take_socket(&peer, sk, bpf_get_socket_cookie(skb));
        egress_know_peer(&peer);
    }
    return 0;
}

/* Whether other processes than the owner may have bytes queued. `left` 0: clears that mark. */
__noinline int egress_has_others(struct __sk_buff* skb, int left) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    struct egress_socket* kept = sk ? bpf_sk_storage_get(&sockets, sk, 0, 0) : 0;
    if (!kept) {
        return 0;
    }
    if (!left) {
        kept->others = 0;
    }
    return kept->others;
}

/* Judges one of the other processes that have bytes queued. */
__noinline int egress_judge_other(struct __sk_buff* skb, __u32 number) {
    const __u32 zero = 0;
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_writers* all = sk ? bpf_sk_storage_get(&writers, sk, 0, 0) : 0;
    if (!all || !settings) {
        return EGRESS_REFUSE;
    }
    struct egress_socket* who = &all->each[number & (EGRESS_WRITERS - 1)].who;
    found.generation = *(volatile const __u64*)&settings->generation;
    found.owner = *who;
    found.owner.passed = egress_ticket(who->started, who->exec_id, found.generation);
    found.known = who->passed == found.owner.passed;
    found.again = who->passed == EGRESS_REFUSED;
    if (!process_of(&found.owner) && (found.known || who->passed == EGRESS_REFUSED)) {
        return found.known ? EGRESS_PASS : EGRESS_REFUSE;
    }
    found.flow.uid = who->uid;
    found.flow.gid = who->gid;
    found.flow.in_container = who->in_container;
    found.flow.type = sk->type;
    put_peer(&found.flow, sk);
    judge_owner(&found);
    who->named = found.owner.named;
    who->named_of_job = found.owner.named_of_job;
    who->passed = is_refused(&found) ? EGRESS_REFUSED : found.owner.passed;
    return is_refused(&found) ? EGRESS_REFUSE : EGRESS_PASS;
}

#define EGRESS_NOTHING_LEFT 2

/* Whether that process still has bytes queued: EGRESS_PASS or EGRESS_NOTHING_LEFT; EGRESS_REFUSE:
 * unknown. */
__noinline int egress_ask_other(struct __sk_buff* skb, __u32 number) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    struct tcp_sock* tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
    struct egress_writers* all = sk ? bpf_sk_storage_get(&writers, sk, 0, 0) : 0;
    if (!all || !tcp) {
        return EGRESS_REFUSE;
    }
    struct egress_writer* writer = &all->each[number & (EGRESS_WRITERS - 1)];
    if (!is_before(tcp->snd_una, writer->end)) {
        writer->used = 0;
    }
    return writer->used ? EGRESS_PASS : EGRESS_NOTHING_LEFT;
}

/* The same for the writers that found no place; EGRESS_REFUSE: they may not send. */
__noinline int egress_ask_more(struct __sk_buff* skb) {
    const __u32 zero = 0;
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct tcp_sock* tcp = sk ? bpf_skc_to_tcp_sock(sk) : 0;
    struct egress_writers* all = sk ? bpf_sk_storage_get(&writers, sk, 0, 0) : 0;
    if (all && tcp && !is_before(tcp->snd_una, all->more_end)) {
        all->more = 0;
    }
    if (all && !all->more) {
        return EGRESS_NOTHING_LEFT;
    }
    if (settings && all && all->more_passed == settings->generation) {
        return EGRESS_PASS;
    }
    egress_lose(EGRESS_LOST_SOCKET);
    return settings && settings->monitor ? EGRESS_PASS : EGRESS_REFUSE;
}

/* Judges all other processes that have bytes queued: a segment may contain some of each. Inline, as
 * functions that call each other share 512 bytes of stack. */
EGRESS_INLINE int judge_others(struct __sk_buff* skb) {
    if (!egress_has_others(skb, 1)) {
        return EGRESS_PASS;
    }
    int verdict = egress_ask_more(skb);
    int left = verdict == EGRESS_PASS;
    for (int i = 0; i < EGRESS_WRITERS && verdict != EGRESS_REFUSE; ++i) {
        verdict = egress_ask_other(skb, i);
        if (verdict == EGRESS_PASS) {
            left = 1;
            verdict = egress_judge_other(skb, i);
        }
    }
    if (verdict != EGRESS_REFUSE) {
        egress_has_others(skb, left);
        return EGRESS_PASS;
    }
    return EGRESS_REFUSE;
}

/* Judges the packet by the process that sends, or that used the socket last. */
__noinline int egress_judge_packet(struct __sk_buff* skb, int kind) {
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    const int soon = egress_identify(skb, &found, kind);
    if (soon != EGRESS_UNDECIDED) {
        return soon;
    }
    egress_count(&looks, EGRESS_HOOK_PACKET);
    decide_fully(&found);
    if (kind == EGRESS_PACKET_CONNECTED) {
        /* The sendmsg hook has judged a datagram that a connected socket sent elsewhere; after
         * address translation, one to the peer looks the same. It passes if its own destination
         * does. */
        if (is_refused(&found) && found.flow.type != SOCK_STREAM && egress_readdress(skb, &found)) {
            decide_fully(&found);
            if (!is_refused(&found)) {
                return EGRESS_PASS;
            }
        }
        const int told = found.silent == EGRESS_SILENT_ELSEWHERE; /* by the sendmsg hook */
        if (told && !is_refused(&found) && egress_readdress(skb, &found)) {
            return EGRESS_PASS; /* the peer has got nothing yet */
        }
        egress_note(skb, &found);
        /* Do not report again what the connect, the first datagram or its send has reported. */
        found.post = found.post && ((found.silent && !told) ||
                                    (found.denies && (is_refused(&found) || !found.known)));
    } else if (found.flow.type == SOCK_DGRAM && found.flow.protocol == IPPROTO_UDP) {
        found.post = found.post && is_refused(&found); /* the hook of the send has reported it */
    }
    if (found.post) {
        egress_tell(&found);
    }
    return is_refused(&found) ? EGRESS_REFUSE : EGRESS_PASS;
}

/* Refuses a packet for a reason that is no rule. */
EGRESS_INLINE int refuse_packet(struct egress_case* found, __u32 reason, int monitor) {
    found->rule = reason;
    found->action = monitor ? EGRESS_EVENT_MONITOR : EGRESS_EVENT_BLOCKED;
    egress_tell(found);
    return monitor ? EGRESS_PASS : EGRESS_REFUSE;
}

__noinline int egress_refuse_forged(struct __sk_buff* skb, int monitor) {
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    egress_count(&looks, EGRESS_HOOK_PACKET);
    const int soon = egress_identify(skb, &found, EGRESS_PACKET_OTHER);
    if (soon != EGRESS_UNDECIDED) {
        return soon || monitor ? EGRESS_PASS : EGRESS_REFUSE; /* pass: the kernel's own */
    }
    return refuse_packet(&found, EGRESS_FORGED, monitor);
}

/* Judges a packet with options or extension headers by every address on its route, if it has one. A
 * packet that passes here is then judged like any other. */
__noinline int egress_judge_route(struct __sk_buff* skb, int monitor) {
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    const int route = egress_find_route(skb, &found);
    if (route == EGRESS_NO_ROUTE) {
        return EGRESS_PASS;
    }
    egress_count(&looks, EGRESS_HOOK_PACKET);
    const int soon = egress_identify(skb, &found, EGRESS_PACKET_ROUTED);
    if (soon != EGRESS_UNDECIDED) {
        return soon || monitor ? EGRESS_PASS : EGRESS_REFUSE;
    }
    if (route != EGRESS_ROUTE) {
        return refuse_packet(&found, EGRESS_UNREAD, monitor);
    }
    for (int i = 0; i <= EGRESS_MAX_STOPS; ++i) {
        decide_fully(&found);
        if (found.post && found.denies) {
            egress_tell(&found);
        }
        if (is_refused(&found)) {
            return EGRESS_REFUSE;
        }
        if (!egress_next_stop(skb, &found)) {
            /* No stop has been checked for the other processes with bytes in it. */
            return monitor || !egress_has_others(skb, 1) ? EGRESS_PASS : EGRESS_REFUSE;
        }
    }
    return EGRESS_REFUSE;
}

/* Whether a packet of IPv6 inside this host may come from another host's address. Two sources
 * surely are this host's, as in may_be_answered(). */
static __noinline int has_foreign_source(struct __sk_buff* skb) {
    __u64 ip[4];
    if (bpf_skb_load_bytes(skb, 8, ip, sizeof ip)) {
        return 1;
    }
    const int loops = !ip[0] && ip[1] == __builtin_bswap64(1);
    return !loops && (ip[0] != ip[2] || ip[1] != ip[3]);
}

/* With IPV6_FREEBIND a connection to an address of this host may seem to come from any other one.
 * Who accepts it then sends there, and that is not judged: so the one who connects is. */
__noinline int egress_judge_source(struct __sk_buff* skb, int monitor) {
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk || !has_foreign_source(skb)) {
        return EGRESS_PASS;
    }
    const int soon = egress_identify(skb, &found, EGRESS_PACKET_OTHER);
    if (soon != EGRESS_UNDECIDED) {
        /* The process has ended, and the kernel sends it again: no rule can allow that now. */
        return found.owner.started && !monitor ? EGRESS_REFUSE : EGRESS_PASS;
    }
    if (bpf_skb_load_bytes(skb, 8, found.flow.address, sizeof found.flow.address)) {
        return EGRESS_REFUSE;
    }
    found.flow.port = sk->src_port;
    egress_count(&looks, EGRESS_HOOK_PACKET);
    decide_fully(&found);
    if (found.post && found.denies) {
        egress_tell(&found);
    }
    return is_refused(&found) ? EGRESS_REFUSE : EGRESS_PASS;
}

/* The kernel chooses no foreign source: only a program that has bound the socket to one does. */
static __noinline int begins_here(struct __sk_buff* skb) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    return sk && sk->protocol == IPPROTO_TCP && sk->state == EGRESS_SYN_SENT &&
           BPF_CORE_READ_BITFIELD_PROBED(address_of(sk), sk_userlocks) & EGRESS_ADDRESS_CHOSEN;
}

/* Whether the stored verdict still decides for this packet. */
EGRESS_INLINE int is_known(const struct egress_socket* kept, struct task_struct* task,
                           const struct egress_config* settings) {
    __u64 started = kept->started;
    __u64 exec_id = kept->exec_id;
    /* Else the compiler merges two loads into one, which the verifier rejects. */
    __asm__ volatile("" : "+r"(started), "+r"(exec_id));
    if (task) {
        started = task->group_leader->start_boottime;
        exec_id = task->self_exec_id;
        __asm__ volatile("" : "+r"(started), "+r"(exec_id));
    }
    return kept->passed == egress_ticket(started, exec_id, settings->generation) && !kept->others &&
           bpf_jiffies64() - kept->checked < trust_ticks && !settings->canary;
}

/* For a socket without stored state: whether it connected, and a process is sending. */
EGRESS_INLINE int is_to_be_judged(struct bpf_sock* sk, int kind, struct task_struct* task) {
    if (!task) {
        /* The kernel's own, or unused since the hooks were attached. */
        return 0;
    }
    if (kind != EGRESS_PACKET_CONNECTED) {
        return sk->protocol != IPPROTO_SCTP && sk->protocol != IPPROTO_DCCP; /* accepted */
    }
    if (sk->protocol != IPPROTO_TCP) {
        return 1;
    }
    struct tcp_sock* tcp = bpf_skc_to_tcp_sock(sk);
    return tcp && has_connected(tcp, sk->state);
}

/* Whether a datagram may be for another address than the socket has now: a thread can disconnect or
 * connect it while another sends, and that send then ran no sendmsg hook. */
EGRESS_INLINE int is_elsewhere(struct bpf_sock* sk, const struct egress_socket* kept, int kind) {
    const __u32 protocol = sk->protocol;
    return kept && kind != EGRESS_PACKET_OTHER &&
           (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE) &&
           (kind == EGRESS_PACKET_FREE || kept->moved);
}

/* Whether the packet is an answer, by its own header. */
static __noinline int is_answer(struct __sk_buff* skb) {
    struct egress_peer peer = {.act = EGRESS_PEER_ASKS};
    struct egress_flow flow = {};
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk || sk->protocol != IPPROTO_UDP || sk->type != SOCK_DGRAM || !is_answering(sk) ||
        !read_header(skb, &flow) || flow.protocol != IPPROTO_UDP) {
        return 0;
    }
    put_destination(&peer, &flow);
    take_socket(&peer, sk, bpf_get_socket_cookie(skb));
    return egress_know_peer(&peer);
}

/* `job`: whose socket it is, for what leaves it when the job is over. */
EGRESS_INLINE int judge_leaving(struct __sk_buff* skb, struct bpf_sock* sk,
                                const struct egress_config* settings, __u32* job) {
    if (skb->ifindex == EGRESS_LOOPBACK_DEVICE && skb->protocol == bpf_htons(ETH_P_IPV6) &&
        begins_here(skb) && !egress_judge_source(skb, settings->monitor)) {
        return EGRESS_REFUSE;
    }
    if (skb->ifindex == EGRESS_LOOPBACK_DEVICE && is_forged(skb) &&
        !egress_refuse_forged(skb, settings->monitor)) {
        return EGRESS_REFUSE;
    }
    if (may_have_route(skb) && !egress_judge_route(skb, settings->monitor)) {
        return EGRESS_REFUSE;
    }
    const int kind = kind_of(sk);
    const struct egress_socket* kept = bpf_sk_storage_get(&sockets, sk, 0, 0);
    *job = kept ? kept->job | kept->used_by_job : 0;
    if (kind == EGRESS_PACKET_FREE) {
        return is_elsewhere(sk, kept, kind) && !is_answer(skb)
                   ? egress_judge_packet(skb, EGRESS_PACKET_OTHER) & 1
                   : EGRESS_PASS;
    }
    struct task_struct* task = sender_now();
    const int known = kept && kind == EGRESS_PACKET_CONNECTED && is_known(kept, task, settings);
    /* A connect sets `moved` before it sets `passed`. */
    __asm__ volatile("" ::: "memory");
    if (!known && sk->protocol == IPPROTO_UDP && is_answer(skb)) {
        return EGRESS_PASS;
    }
    if (is_elsewhere(sk, kept, kind) && !egress_judge_packet(skb, EGRESS_PACKET_OTHER)) {
        return EGRESS_REFUSE;
    }
    if (known || (!kept && !is_to_be_judged(sk, kind, task))) {
        return EGRESS_PASS;
    }
    int verdict = egress_judge_packet(skb, kind);
    if (verdict && kind == EGRESS_PACKET_CONNECTED) {
        verdict = judge_others(skb);
    }
    return verdict;
}

SEC("cgroup_skb/egress")
int egress_packet(struct __sk_buff* skb) {
    const __u32 zero = 0;
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!sk || !settings || !settings->generation) {
        return EGRESS_PASS;
    }
    __u32 job = 0;
    int verdict = judge_leaving(skb, sk, settings, &job);
    if (verdict && may_ask(sk, settings, job)) {
        verdict = read_questions(skb, settings, job);
    }
    __asm__ volatile("" : "+r"(verdict)); /* the compiler knows the possible values, */
    return verdict & 1;                   /* the verifier does not */
}

#endif
