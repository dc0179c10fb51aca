/* What a packet's own headers say of where it goes. */
#ifndef EGRESS_BPF_HEADER_H
#define EGRESS_BPF_HEADER_H

#include "flow.h"

#define EGRESS_MAX_EXTENSIONS 128 /* IPv6 headers to step over */

EGRESS_INLINE int is_extension(__u8 kind) {
    return kind == 0 || kind == 43 || kind == 44 || kind == 51 || kind == 60;
}

struct egress_header {
    struct __sk_buff* skb;
    __u32 at; /* the next header */
    __u8 protocol;
    __u8 later; /* a fragment without the next header */
};

/* Steps over one extension header; not 0: there is none. */
static long step_over(__u32 number, struct egress_header* header) {
    __u8 start[4];
    const __u8 kind = header->protocol;
    if (!is_extension(kind)) {
        return 1;
    }
    if (header->at > 0xffff || bpf_skb_load_bytes(header->skb, header->at, start, sizeof start)) {
        return 1;
    }
    header->protocol = start[0];
    if (kind == 44) {
        header->at += 8;
        if (start[2] || start[3] & 0xf8) {
            header->later = 1;
            return 1;
        }
        return 0;
    }
    header->at += kind == 51 ? (start[1] + 2) * 4 : (start[1] + 1) * 8;
    return 0;
}

/* Reads destination, port and protocol from the packet; port 0: it has none. Returns 0 if
 * unreadable. */
static __noinline int read_header(struct __sk_buff* skb, struct egress_flow* flow) {
    struct egress_header header = {.skb = skb};
    __u32 ip[10];
    if (!flow) {
        return 0;
    }
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (bpf_skb_load_bytes(skb, 0, ip, 20)) {
            return 0;
        }
        const __u8* bytes = (const __u8*)ip;
        put_v4(flow, ip[4]);
        header.protocol = bytes[9];
        header.at = (bytes[0] & 15) * 4;
        header.later = bytes[7] || bytes[6] & 0x1f;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (bpf_skb_load_bytes(skb, 0, ip, 40)) {
            return 0;
        }
        const __u8* bytes = (const __u8*)ip;
        put_v6(flow, ip[6], ip[7], ip[8], ip[9]);
        header.protocol = bytes[6];
        header.at = 40;
        bpf_loop(EGRESS_MAX_EXTENSIONS, step_over, &header, 0);
    } else {
        return 0;
    }
    const __u8 protocol = header.protocol;
    flow->protocol = protocol;
    flow->port = 0;
    __u16 port = 0;
    const __u32 later = header.later + (__u32)egress_zero(protocol);
    if (!later && header.at <= 0xffff &&
        (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
         protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP) &&
        bpf_skb_load_bytes(skb, header.at + 2, &port, sizeof port) == 0) {
        flow->port = bpf_ntohs(port);
    }
    return 1;
}

#endif
