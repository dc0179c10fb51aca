/* Finds the messages of the DNS in a packet. */
#ifndef EGRESS_BPF_LEG_H
#define EGRESS_BPF_LEG_H

#include "grant.h"
#include "kernel.h"

/* A connected socket's peer; the header has another address after address translation. */
EGRESS_INLINE void put_resolver(struct egress_resolver* to, struct bpf_sock* sk) {
    __u32* const words = (__u32*)to->address;
    __u32 v4 = sk->dst_ip4;
    __u32 last = sk->dst_ip6[3];
    /* Else the compiler chooses between the addresses of the fields, which the verifier rejects. */
    __asm__ volatile("" : "+r"(v4), "+r"(last));
    const int is_v4 = sk->family == AF_INET;
    words[0] = is_v4 ? 0 : sk->dst_ip6[0];
    words[1] = is_v4 ? 0 : sk->dst_ip6[1];
    words[2] = is_v4 ? bpf_htonl(0xffff) : sk->dst_ip6[2];
    words[3] = is_v4 ? v4 : last;
    to->port = bpf_ntohs(sk->dst_port);
}

/* Whether the resolver is approved. For a packet that leaves the socket's peer counts, too: address
 * translation may have changed the header, and a connected socket may send elsewhere. */
static __noinline int is_approved(struct bpf_sock* sk, struct egress_leg* leg) {
    struct egress_resolver key = {};
    if (!leg) {
        return 0;
    }
    if (leg->outward && sk && sk->state == EGRESS_ESTABLISHED) {
        put_resolver(&key, sk);
        if (bpf_map_lookup_elem(&resolvers, &key)) {
            leg->resolver = key;
            return 1;
        }
    }
    key = leg->resolver;
    return bpf_map_lookup_elem(&resolvers, &key) != 0;
}

/* Finds where the TCP segment's bytes are, and their number. */
static __noinline int find_segment(struct __sk_buff* skb, struct egress_leg* leg) {
    __u32 words[4];
    if (!leg || bpf_skb_load_bytes(skb, leg->at, words, sizeof words)) {
        return 0;
    }
    const __u32 flags = bpf_ntohl(words[3]);
    const __u32 begins = flags >> 17 & 1; /* SYN takes a number */
    leg->urgent = flags >> 21 & 1;
    leg->sequence = bpf_ntohl(words[1]) + begins;
    leg->at += (flags >> 28) * 4;
    return 1;
}

/* Fills in the leg; 0: the packet has no message from or for an approved resolver. */
static __noinline int find_leg(struct __sk_buff* skb, struct egress_leg* leg) {
    __u32 ip[10];
    __u16 ports[2];
    if (!leg) {
        return 0;
    }
    const int outward = leg->outward != 0;
    __u32* const words = (__u32*)leg->resolver.address;
    const __u8* const bytes = (const __u8*)ip;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (bpf_skb_load_bytes(skb, 0, ip, 20) || bytes[7] || bytes[6] & 0x1f) {
            return 0;
        }
        leg->protocol = bytes[9];
        leg->at = (bytes[0] & 15) * 4;
        words[0] = 0;
        words[1] = 0;
        words[2] = bpf_htonl(0xffff);
        words[3] = outward ? ip[4] : ip[3];
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (bpf_skb_load_bytes(skb, 0, ip, 40)) {
            return 0;
        }
        leg->protocol = bytes[6];
        leg->at = 40;
        words[0] = outward ? ip[6] : ip[2];
        words[1] = outward ? ip[7] : ip[3];
        words[2] = outward ? ip[8] : ip[4];
        words[3] = outward ? ip[9] : ip[5];
    } else {
        return 0;
    }
    const __u32 at = leg->at;
    if ((leg->protocol != IPPROTO_UDP && leg->protocol != IPPROTO_TCP) ||
        bpf_skb_load_bytes(skb, at, ports, sizeof ports)) {
        return 0;
    }
    leg->resolver.port = bpf_ntohs(outward ? ports[1] : ports[0]);
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!is_approved(sk, leg)) {
        return 0;
    }
    leg->end = skb->len;
    leg->piece = skb->gso_size;
    if (leg->protocol == IPPROTO_UDP) {
        leg->at = at + 8;
    } else if (!find_segment(skb, leg)) {
        return 0;
    }
    leg->from = leg->at;
    return leg->at < leg->end;
}

/* Loads the next `size` bytes into the room, as its message, and steps behind them. */
static __noinline int load_message(struct __sk_buff* skb, __u32 number, __u32 size) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room) {
        return 0;
    }
    const __u32 at = room->leg.at;
    room->leg.at = at + size;
    /* The verifier of 6.1 wants to see that it is not 0. */
    const __u32 bounded = egress_masked(size - 1, EGRESS_DNS_BYTES - 1) + 1;
    if (size != bounded || size < EGRESS_DNS_HEADER || size >= EGRESS_DNS_BYTES ||
        bpf_skb_load_bytes(skb, at, room->message.bytes, bounded)) {
        return 0;
    }
    room->message.length = bounded;
    return 1;
}

#endif
