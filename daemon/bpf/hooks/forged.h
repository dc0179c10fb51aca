/* Datagrams in the name of another user's socket on this host.
 *
 * A program may give what it sends any source address of this host (IP_PKTINFO, IPV6_PKTINFO). With
 * the port of a service, on another address, it could speak as that service; the receiver then
 * passed for asked by it, and its own datagrams to the service for answers (answer.h).
 *
 * Over a network such a source is refused by the receiver (may_be_answered()): only the loopback
 * device is looked at.
 */
#ifndef EGRESS_BPF_FORGED_H
#define EGRESS_BPF_FORGED_H

#include "answer.h"
#include "header.h"

/* Whether the datagram's source is another one than the address that its socket is bound to. Writes
 * the source. A socket that is bound to all addresses owns its port on each of them. */
EGRESS_INLINE int has_another_source(struct __sk_buff* skb, struct bpf_sock* sk, __u32* source) {
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        const __u32 bound = sk->src_ip4;
        return bound && !bpf_skb_load_bytes(skb, 12, source, 4) && source[0] != bound;
    }
    const __u32 bound[4] = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]};
    return (bound[0] | bound[1] | bound[2] | bound[3]) && !bpf_skb_load_bytes(skb, 8, source, 16) &&
           (source[0] != bound[0] || source[1] != bound[1] || source[2] != bound[2] ||
            source[3] != bound[3]);
}

/* Whether another user's socket would receive what is sent back to the datagram's source. Sockets
 * of one user may speak for each other: after address translation, what a name server with a socket
 * for each address sends looks the same. */
static __noinline int is_forged(struct __sk_buff* skb) {
    struct bpf_sock_tuple back = {};
    __u32 source[4] = {};
    struct egress_flow flow = {};
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk || sk->protocol != IPPROTO_UDP || sk->type != SOCK_DGRAM ||
        !has_another_source(skb, sk, source) || !read_header(skb, &flow)) {
        return 0;
    }
    const __u32* const to = (const __u32*)flow.address;
    struct bpf_sock* other = 0;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        back.ipv4.saddr = to[3];
        back.ipv4.daddr = source[0];
        back.ipv4.sport = bpf_htons(flow.port);
        back.ipv4.dport = bpf_htons(sk->src_port);
        other = bpf_sk_lookup_udp(skb, &back, sizeof back.ipv4, BPF_F_CURRENT_NETNS, 0);
    } else {
        __builtin_memcpy(back.ipv6.saddr, to, 16);
        __builtin_memcpy(back.ipv6.daddr, source, 16);
        back.ipv6.sport = bpf_htons(flow.port);
        back.ipv6.dport = bpf_htons(sk->src_port);
        other = bpf_sk_lookup_udp(skb, &back, sizeof back.ipv6, BPF_F_CURRENT_NETNS, 0);
    }
    if (!other) {
        return 0;
    }
    const __u32 uid = BPF_CORE_READ(address_of(other), sk_uid.val);
    bpf_sk_release(other);
    return uid != BPF_CORE_READ(address_of(sk), sk_uid.val);
}

#endif
