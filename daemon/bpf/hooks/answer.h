/* Answers of UDP services: datagrams back to where one came from, from the same socket, within
 * EGRESS_ANSWER_TIME. Like the answers on accepted TCP connections they are not judged.
 *
 * The side that sends first decides: what a peer replies to a socket that sent to it first, having
 * passed, permits nothing. So new rules cut off a client although its server goes on answering.
 *
 * The table is bounded. If a user's part of it is full, the oldest peers are forgotten, and answers
 * to them are judged like any other datagram; EGRESS_LOST_ANSWER counts them.
 */
#ifndef EGRESS_BPF_ANSWER_H
#define EGRESS_BPF_ANSWER_H

#include "daemon/bpf/siphash.h"
#include "kernel.h"
#include "maps.h"
#include "socket.h"
#include "verdict.h"

/* The same peer is noted again after an eighth of a second, which is added to the 30. */
#define EGRESS_ANSWER_TIME (30 * EGRESS_SECOND + EGRESS_SECOND / 8)
#define EGRESS_NOTED_TICKS (trust_ticks / 8)
/* A socket that has spoken to its peer need not look again, for less than EGRESS_ANSWER_TIME. */
#define EGRESS_SPOKEN_TICKS (trust_ticks * 8)
/* A user's sockets share a part, so that another user can flood only that one, or one of 64. */
#define EGRESS_ANSWER_PARTS 64
#define EGRESS_ANSWER_SETS 2048 /* in a part */
#define EGRESS_ANSWER_WAYS 4

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define EGRESS_LOOPBACK_DEVICE 1 /* its number in every network namespace */
#define EGRESS_PACKET_LOOPED 5   /* PACKET_LOOPBACK: the copy of a multicast that this host sent */

struct egress_answer {
    __u64 peer; /* hash of socket and peer */
    __u64 when; /* boot clock; the lowest bit: the socket spoke first */
};
struct egress_answers {
    struct egress_answer each[EGRESS_ANSWER_WAYS];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_ANSWER_PARTS* EGRESS_ANSWER_SETS);
    __type(key, __u32);
    __type(value, struct egress_answers);
} answers SEC(".maps");

/* By socket that received what may be answered; others pay for one look-up. CPUs may write parts of
 * it at once: then a peer is noted again, or an eighth of a second later. */
struct egress_answering {
    __u64 last;  /* when it received the last one, boot clock */
    __u64 ticks; /* the same in ticks of the kernel */
    /* Its sender. The next datagram usually has the same one. */
    __u64 address[2];
    __u32 port;
    __u32 zero;
};

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct egress_answering);
} askers SEC(".maps");

enum egress_peer_act {
    EGRESS_PEER_ASKS = 0,     /* may the socket answer? */
    EGRESS_PEER_RECEIVED = 1, /* 1: what it received may be answered */
    EGRESS_PEER_SENT = 2,     /* the socket spoke, and passed */
};

struct egress_peer {
    __u64 socket; /* cookie */
    __u64 address[2];
    __u32 port;
    __u32 uid; /* of the socket */
    __u32 act;
    __u32 zero;
};

EGRESS_INLINE __u64 hash_of_peer(const struct egress_peer* peer,
                                 const struct egress_config* settings) {
    const __u64 words[] = {peer->socket, peer->address[0], peer->address[1], peer->port};
    EGRESS_SIP_BEGIN(settings->path_key);
    EGRESS_UNROLL
    for (int i = 0; i < 4; ++i) {
        EGRESS_SIP_WORD(words[i]);
    }
    return EGRESS_SIP_END;
}

/* The verifier checks it once for all hooks. */
__noinline int egress_know_peer(struct egress_peer* peer) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!peer || !settings) {
        return 0;
    }
    const __u64 hash = hash_of_peer(peer, settings);
    const __u64 part = (peer->uid ^ settings->path_key[1]) * 0x9e3779b97f4a7c15ULL >> 58;
    const __u32 at = part * EGRESS_ANSWER_SETS + (hash & (EGRESS_ANSWER_SETS - 1));
    struct egress_answers* const set = bpf_map_lookup_elem(&answers, &at);
    if (!set) {
        return 0;
    }
    const __u64 now = bpf_ktime_get_boot_ns();
    __u32 oldest = 0;
    __u64 oldest_when = ~0ULL;
    __u64 known_when = 0;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_ANSWER_WAYS; ++i) {
        volatile struct egress_answer* const one = &set->each[i];
        const __u64 peer_then = one->peer;
        const __u64 when = one->when;
        if (peer_then == hash && one->peer == hash) {
            known_when = when;
            oldest = i;
            oldest_when = 0; /* it is the place to write to */
        } else if (when < oldest_when) {
            oldest = i;
            oldest_when = when;
        }
    }
    const int fresh = known_when && now - known_when < EGRESS_ANSWER_TIME;
    const int spoke_first = fresh && known_when & 1;
    if (peer->act == EGRESS_PEER_ASKS || (peer->act == EGRESS_PEER_RECEIVED && spoke_first)) {
        return fresh && !spoke_first;
    }
    if (oldest_when && now - oldest_when < EGRESS_ANSWER_TIME && !(oldest_when & 1)) {
        egress_lose(EGRESS_LOST_ANSWER);
    }
    volatile struct egress_answer* const place = &set->each[oldest & (EGRESS_ANSWER_WAYS - 1)];
    place->when = 0;
    place->peer = hash;
    place->when = peer->act == EGRESS_PEER_SENT ? now | 1 : now & ~1ULL;
    return 1;
}

/* The rest of the peer is the caller's. */
EGRESS_INLINE void take_socket(struct egress_peer* peer, struct bpf_sock* sk, __u64 cookie) {
    peer->socket = cookie;
    peer->uid = BPF_CORE_READ(address_of(sk), sk_uid.val);
}

/* Whether the socket has received anything lately that it may answer. */
EGRESS_INLINE int is_answering(struct bpf_sock* sk) {
    const struct egress_answering* const kept = bpf_sk_storage_get(&askers, sk, 0, 0);
    return kept && bpf_ktime_get_boot_ns() - kept->last < EGRESS_ANSWER_TIME;
}

EGRESS_INLINE void put_destination(struct egress_peer* peer, const struct egress_flow* flow) {
    const __u64* const address = (const __u64*)flow->address;
    peer->address[0] = address[0];
    peer->address[1] = address[1];
    peer->port = flow->port;
}

/* Whether the source of a received datagram can be answered. The programs of this host can choose
 * the source of what they send: on the loopback device only two sources are surely this host's, its
 * own addresses of 127.0.0.0/8 and ::1, and the address that was sent to. A source from outside is
 * as true as the network makes it. */
EGRESS_INLINE int may_be_answered(const __u8* from, const __u8* to, int here) {
    const __u64* const source = (const __u64*)from;
    const __u64* const target = (const __u64*)to;
    const int to_self = source[0] == target[0] && source[1] == target[1];
    const int v4 = egress_is_v4(from);
    const int loops = v4 ? from[12] == 127 : !source[0] && source[1] == __builtin_bswap64(1);
    const int single =
        v4 ? from[12] && from[12] < 224 : from[0] != 0xff && (source[0] || source[1]);
    return single && (here ? loops || to_self : !loops && !to_self);
}

/* Whether the socket has spoken to its only peer, so that what it receives changes nothing. */
EGRESS_INLINE int has_spoken(struct bpf_sock* sk) {
    if (sk->state != EGRESS_ESTABLISHED) {
        return 0;
    }
    const struct egress_socket* const kept = bpf_sk_storage_get(&sockets, sk, 0, 0);
    return kept && kept->passed > EGRESS_REFUSED &&
           bpf_jiffies64() - kept->checked < EGRESS_SPOKEN_TICKS;
}

/* Whether the peer of the datagram before has sent this one, too. */
EGRESS_INLINE int is_noted(const struct egress_answering* kept, const struct egress_peer* peer) {
    return kept && kept->address[0] == peer->address[0] && kept->address[1] == peer->address[1] &&
           kept->port == peer->port && bpf_jiffies64() - kept->ticks < EGRESS_NOTED_TICKS;
}

static __noinline int note_received(struct __sk_buff* skb) {
    struct egress_peer peer = {.act = EGRESS_PEER_RECEIVED};
    __u64 to[2] = {};
    __u32 ip[11];      /* with the ports, if there are no options */
    __u32 options = 0; /* where the ports are then */
    __u16 port = 0;
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk || sk->protocol != IPPROTO_UDP || sk->type != SOCK_DGRAM || has_spoken(sk)) {
        return 0;
    }
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (bpf_skb_load_bytes(skb, 0, ip, 24) || ((const __u8*)ip)[9] != IPPROTO_UDP) {
            return 0;
        }
        const __u32 length = (((const __u8*)ip)[0] & 15) * 4;
        options = length != 20 ? length : 0;
        port = *(const __u16*)&ip[5];
        const __u64 mapped = (__u64)bpf_htonl(0xffff);
        peer.address[1] = mapped | (__u64)ip[3] << 32;
        to[1] = mapped | (__u64)ip[4] << 32;
    } else {
        if (bpf_skb_load_bytes(skb, 0, ip, 44) || ((const __u8*)ip)[6] != IPPROTO_UDP) {
            return 0;
        }
        peer.address[0] = ip[2] | (__u64)ip[3] << 32;
        peer.address[1] = ip[4] | (__u64)ip[5] << 32;
        to[0] = ip[6] | (__u64)ip[7] << 32;
        to[1] = ip[8] | (__u64)ip[9] << 32;
        port = *(const __u16*)&ip[10];
    }
    if (options && bpf_skb_load_bytes(skb, options, &port, sizeof port)) {
        return 0;
    }
    peer.port = bpf_ntohs(port);
    struct egress_answering* kept = bpf_sk_storage_get(&askers, sk, 0, 0);
    if (is_noted(kept, &peer)) {
        return 0;
    }
    const int here =
        skb->ifindex == EGRESS_LOOPBACK_DEVICE || skb->pkt_type == EGRESS_PACKET_LOOPED;
    if (!port || !may_be_answered((const __u8*)peer.address, (const __u8*)to, here)) {
        return 0;
    }
    take_socket(&peer, sk, bpf_get_socket_cookie(skb));
    if (!egress_know_peer(&peer)) {
        return 0;
    }
    kept = bpf_sk_storage_get(&askers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (kept) {
        kept->ticks = 0;
        kept->last = bpf_ktime_get_boot_ns();
        kept->address[0] = peer.address[0];
        kept->address[1] = peer.address[1];
        kept->port = peer.port;
        kept->ticks = bpf_jiffies64();
    }
    return 0;
}

/* Whether this surely is no UDP packet. Most packets are TCP's, and pay for nothing else. */
EGRESS_INLINE int is_no_datagram(struct __sk_buff* skb) {
    const __u8* const ip = (const __u8*)(long)skb->data;
    if (ip + 20 > (const __u8*)(long)skb->data_end) {
        return 0;
    }
    return (ip[0] >> 4 == 4 ? ip[9] : ip[6]) != IPPROTO_UDP;
}
#endif
