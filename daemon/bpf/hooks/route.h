/* Source-routed packets: addressed to the next stop, with the other stops in an IPv4 option or an
 * IPv6 routing header. Every address is judged; an unreadable route is refused.
 */
#ifndef EGRESS_BPF_ROUTE_H
#define EGRESS_BPF_ROUTE_H

#include "flow.h"
#include "header.h"
#include "judge.h"

#define EGRESS_MAX_STOPS 16   /* of the longest route that is judged */
#define EGRESS_MAX_OPTIONS 40 /* bytes */

#define EGRESS_NO_ROUTE 0
#define EGRESS_ROUTE 1
#define EGRESS_ROUTE_UNREAD 2 /* it cannot be judged */

#define EGRESS_LOOSE 131
#define EGRESS_STRICT 137

/* The cost that every packet pays; 0: it has no route. */
EGRESS_INLINE int may_have_route(struct __sk_buff* skb) {
    const __u8* const start = (const __u8*)(long)skb->data;
    if ((const void*)(start + 7) > (const void*)(long)skb->data_end) {
        return 1;
    }
    return skb->protocol == bpf_htons(ETH_P_IPV6) ? is_extension(start[6]) : (start[0] & 15) != 5;
}

struct egress_route {
    struct __sk_buff* skb;
    __u32 at;    /* the next option or header */
    __u32 end;   /* of the options */
    __u32 first; /* address; 0: none yet */
    __u32 count;
    __u32 bad;
    __u32 done; /* all was read */
    __u8 kind;  /* of the next header */
};

static void take_route(struct egress_route* route, __u32 first, __u32 count) {
    /* A second route, an empty one, or one that is too long. */
    route->bad = route->first || !count || count > EGRESS_MAX_STOPS;
    route->first = first;
    route->count = count;
}

/* One option of IPv4; not 0: it was the last. */
static long step_option(__u32 number, struct egress_route* route) {
    __u8 start[2] = {};
    if (route->at >= route->end || bpf_skb_load_bytes(route->skb, route->at, start, 1) ||
        start[0] == 0) {
        route->done = 1;
        return 1;
    }
    if (start[0] == 1) {
        ++route->at;
        return 0;
    }
    if (bpf_skb_load_bytes(route->skb, route->at, start, sizeof start) || start[1] < 2 ||
        route->at + start[1] > route->end) {
        route->bad = 1;
        return 1;
    }
    if (start[0] == EGRESS_LOOSE || start[0] == EGRESS_STRICT) {
        take_route(route, route->at + 3, start[1] < 3 || (start[1] - 3) % 4 ? 0 : start[1] / 4);
    }
    route->at += start[1];
    return route->bad != 0;
}

/* One header of IPv6; not 0: it was the last. */
static long step_header(__u32 number, struct egress_route* route) {
    __u8 start[8];
    const __u8 kind = route->kind;
    if (!is_extension(kind)) {
        route->done = 1;
        return 1;
    }
    if (route->at > 0xffff || bpf_skb_load_bytes(route->skb, route->at, start, sizeof start)) {
        route->bad = 1;
        return 1;
    }
    if (kind == 44 && (start[2] || start[3] & 0xf8)) {
        route->done = 1; /* a later fragment: only the first has the headers */
        return 1;
    }
    if (kind == 43) {
        const __u32 room = start[1] / 2;
        const __u32 segments = start[4] + 1; /* as the segment routing header claims */
        take_route(route, route->at + 8,
                   start[2] == 0 || start[2] == 2      ? room
                   : start[2] == 4 && segments <= room ? segments
                                                       : 0);
    }
    route->kind = start[0];
    route->at += kind == 44 ? 8 : kind == 51 ? (start[1] + 2) * 4 : (start[1] + 1) * 8;
    return route->bad != 0;
}

/* Finds the packet's route: its first address and the number of addresses. */
__noinline int egress_find_route(struct __sk_buff* skb, struct egress_case* found) {
    __u8 start[8];
    if (!found || bpf_skb_load_bytes(skb, 0, start, sizeof start)) {
        return EGRESS_ROUTE_UNREAD;
    }
    const __u32 none = (__u32)egress_zero(skb->len);
    struct egress_route route = {
        .skb = skb, .first = none, .count = none, .bad = none, .done = none};
    if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        route.kind = start[6];
        route.at = 40 + none;
        bpf_loop(EGRESS_MAX_EXTENSIONS, step_header, &route, 0);
    } else {
        route.at = 20 + none;
        route.end = (start[0] & 15) * 4;
        bpf_loop(EGRESS_MAX_OPTIONS + 1, step_option, &route, 0);
    }
    const __u32 unknown = (__u32)egress_zero(skb->len);
    if (route.bad + unknown || !(route.done + unknown)) {
        return EGRESS_ROUTE_UNREAD;
    }
    found->stops = route.count;
    found->stop = route.first;
    return route.first + unknown ? EGRESS_ROUTE : EGRESS_NO_ROUTE;
}

/* Replaces the destination by the next address of the route; 0: there is none. */
__noinline int egress_next_stop(struct __sk_buff* skb, struct egress_case* found) {
    __u32 address[4];
    if (!found || !found->stops) {
        return 0;
    }
    --found->stops;
    if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (bpf_skb_load_bytes(skb, found->stop, address, 16)) {
            return 0;
        }
        put_v6(&found->flow, address[0], address[1], address[2], address[3]);
        found->stop += 16;
    } else {
        if (bpf_skb_load_bytes(skb, found->stop, address, 4)) {
            return 0;
        }
        put_v4(&found->flow, address[0]);
        found->stop += 4;
    }
    return 1;
}

#endif
