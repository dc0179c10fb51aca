/* Grants: the addresses of an answer are kept with the keys of the question's name that rules name,
 * until TTL and grace have passed.
 */
#ifndef EGRESS_BPF_GRANT_H
#define EGRESS_BPF_GRANT_H

#include "maps.h"
#include "told.h"
#include "verdict.h"

EGRESS_INLINE void egress_dns_take(void* taker, const __u8* address, __u32 ttl);
#include "daemon/bpf/dns.h"

#define EGRESS_ROOMS 16 /* messages that are being read at once */

/* By enum egress_dns. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_DNS_OUTCOMES);
    __type(key, __u32);
    __type(value, __u64);
} dns_outcomes SEC(".maps");

/* Where a packet has messages of the DNS, and which resolver sends or gets them. In the room and
 * not on the stack, so that the verifier takes what it reads here for any number. */
struct egress_leg {
    struct egress_resolver resolver;
    __u32 at;  /* of the next byte to be read */
    __u32 end; /* of the packet */
    __u32 protocol;
    __u32 outward;
    __u32 piece;    /* UDP: size of one datagram of several in a row */
    __u32 sequence; /* TCP: number of the byte at `from` */
    __u32 from;
    __u32 urgent; /* TCP: has a byte that is no part of the stream */
};

struct egress_room {
    __u32 taken;
    __u32 wishes_used;
    struct egress_wish wishes[EGRESS_MAX_WISHES];
    __u64 now;
    __u64 grace;
    __u64 until; /* of the address that is being granted */
    __u8 address[16];
    __u32 is_private;
    __u32 handed_over; /* addresses */
    __u32 number;
    __u32 ways[2]; /* of the address' sets: ways_of() */
    __u32 granted; /* bit i: for wishes[i] */
    __u32 untold;
    __u32 asker;    /* egress_know_asker() */
    __u32 unlisted; /* a question that is not listed was found */
    struct egress_told told;
    struct egress_dns_message message;
    struct egress_leg leg;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_ROOMS);
    __type(key, __u32);
    __type(value, struct egress_room);
} rooms SEC(".maps");

EGRESS_INLINE void count_dns(__u32 what) {
    __u64* counter = bpf_map_lookup_elem(&dns_outcomes, &what);
    if (counter) {
        __sync_fetch_and_add(counter, 1);
    }
}

/* Addresses that a name from outside must not lead to: those of this host and its networks. */
EGRESS_INLINE __u32 is_private_address(const __u8* a) {
    const __u64 high = ((const __u64*)a)[0];
    if (egress_is_v4(a)) {
        const __u32 first = a[12];
        const __u32 second = a[13];
        return first == 0 || first == 10 || first == 127 || (first == 100 && second >> 6 == 1) ||
               (first == 169 && second == 254) || (first == 172 && second >> 4 == 1) ||
               (first == 192 && second == 168);
    }
    /* ::/64 has ::1 and IPv4 in other forms; 64:ff9b::/96 reaches IPv4 through a translator. */
    return !high || a[0] >> 1 == 0xfc >> 1 || (a[0] == 0xfe && a[1] >> 6 == 2);
}

/* Marks the ways of a set that have the grant already, from bit 0 on, and those that are free, from
 * bit 8 on. */
EGRESS_INLINE __u32 ways_of(const struct egress_grants* set, const struct egress_room* room,
                            __u64 key) {
    const __u64* const address = (const __u64*)room->address;
    const __u64 now = room->now;
    __u32 out = 0;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_GRANTS_WAYS; ++i) {
        const volatile struct egress_grant* const grant = &set->each[i];
        const volatile __u64* const other = (const volatile __u64*)grant->address;
        const __u64 until = grant->until;
        const __u64 differs =
            (other[0] ^ address[0]) | (other[1] ^ address[1]) | (grant->key ^ key);
        const __u64 live = (now - until) >> 63 | (egress_not_zero(~until) ^ 1);
        out |= (__u32)((egress_not_zero(differs) ^ 1) & live & egress_not_zero(~until)) << i;
        out |= (__u32)(live ^ 1) << (i + 8);
    }
    return out;
}

EGRESS_INLINE __u32 number_of_ways(__u32 free) {
    __u32 out = 0;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_GRANTS_WAYS; ++i) {
        out += free >> i & 1;
    }
    return out;
}

/* Prolongs the grant of that way. */
EGRESS_INLINE void prolong(struct egress_grants* set, __u32 way, __u64 until) {
    struct egress_grant* const grant =
        (struct egress_grant*)set + egress_masked(way + 1, EGRESS_GRANTS_WAYS);
    const __u64 before = *(volatile __u64*)&grant->until;
    if (before < until) {
        __sync_val_compare_and_swap(&grant->until, before, until);
    }
}

/* Writes the grant to a free way; 0: another CPU has just taken it. */
EGRESS_INLINE int occupy(struct egress_grants* set, __u32 way, const struct egress_room* room,
                         __u64 key) {
    struct egress_grant* const grant =
        (struct egress_grant*)set + egress_masked(way + 1, EGRESS_GRANTS_WAYS);
    const __u64 before = *(volatile __u64*)&grant->until;
    if (before >= room->now ||
        __sync_val_compare_and_swap(&grant->until, before, EGRESS_GRANT_WRITTEN) != before) {
        return 0;
    }
    ((volatile __u64*)grant->address)[0] = ((const __u64*)room->address)[0];
    ((volatile __u64*)grant->address)[1] = ((const __u64*)room->address)[1];
    *(volatile __u64*)&grant->key = key;
    __sync_lock_test_and_set(&grant->until, room->until);
    return 1;
}

/* Grants the room's address for one of its keys; 1: done. */
__noinline int egress_grant_wish(__u32 room_number, __u32 wish_number) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &room_number);
    if (!room) {
        return 0;
    }
    const struct egress_wish* const wish =
        &room->wishes[egress_masked(wish_number, EGRESS_MAX_WISHES - 1)];
    const __u64 key = wish->key;
    if (room->is_private && !wish->rebinds) {
        count_dns(EGRESS_DNS_PRIVATE);
        return 0;
    }
    const __u64 hash = egress_grants_of(room->message.secret, room->address);
    const __u32 one = EGRESS_FIRST_SET(hash);
    const __u32 two = EGRESS_SECOND_SET(hash);
    struct egress_grants* const first = bpf_map_lookup_elem(&grants, &one);
    struct egress_grants* const second = bpf_map_lookup_elem(&grants, &two);
    if (!first || !second) {
        return 0;
    }
    /* In the map, so that the verifier takes them for any number. */
    room->ways[0] = ways_of(first, room, key);
    room->ways[1] = ways_of(second, room, key);
    const __u32 in_first = *(volatile __u32*)&room->ways[0];
    const __u32 in_second = *(volatile __u32*)&room->ways[1];
    if (in_first & 0xff) {
        prolong(first, egress_lowest(in_first & 0xff), room->until);
        count_dns(EGRESS_DNS_GRANTED);
        return 1;
    }
    if (in_second & 0xff) {
        prolong(second, egress_lowest(in_second & 0xff), room->until);
        count_dns(EGRESS_DNS_GRANTED);
        return 1;
    }
    /* The set with more room, so that neither is full long before the others are. */
    const int to_first = number_of_ways(in_first >> 8) >= number_of_ways(in_second >> 8);
    const __u32 free = (to_first ? in_first : in_second) >> 8;
    if (free && occupy(to_first ? first : second, egress_lowest(free), room, key)) {
        count_dns(EGRESS_DNS_GRANTED);
        return 1;
    }
    count_dns(EGRESS_DNS_FULL);
    if (*(volatile __u64*)&first->doubt < room->until) {
        __sync_lock_test_and_set(&first->doubt, room->until);
    }
    return 0;
}

static long grant_wish(__u32 number, struct egress_room* const* context) {
    struct egress_room* const room = *context;
    if (number >= room->wishes_used) {
        return 1;
    }
    if (egress_grant_wish(room->number, number)) {
        room->granted |= 1U << egress_masked(number, EGRESS_MAX_WISHES - 1);
    }
    return 0;
}

EGRESS_INLINE void egress_dns_take(void* taker, const __u8* address, __u32 ttl) {
    struct egress_room* room = taker;
    const __u64 seconds = ttl < EGRESS_DNS_LONGEST ? ttl : EGRESS_DNS_LONGEST;
    __builtin_memcpy(room->address, address, sizeof room->address);
    room->until = room->now + seconds * EGRESS_SECOND + room->grace;
    room->is_private = is_private_address(room->address);
    ++room->handed_over;
    room->granted = 0;
    bpf_loop(EGRESS_MAX_WISHES, grant_wish, &room, 0);
    if (room->granted) {
        const __u64* const granted = (const __u64*)room->address;
        if (room->told.addresses_used >= EGRESS_TOLD_ADDRESSES) {
            room->untold |= egress_send_told(&room->told);
        }
        egress_note_told(&room->told, granted[0], granted[1], room->until, room->granted);
    }
}

/* Number of a room that is now the caller's; EGRESS_ROOMS: all that were tried are taken. */
static __noinline __u32 enter_room(void) {
    const __u32 cpu = bpf_get_smp_processor_id();
    for (__u32 i = 0; i < 8; ++i) {
        const __u32 number = (cpu + 2 * i) & (EGRESS_ROOMS - 1);
        struct egress_room* room = bpf_map_lookup_elem(&rooms, &number);
        if (room && !__sync_lock_test_and_set(&room->taken, 1)) {
            room->number = number;
            return number;
        }
    }
    count_dns(EGRESS_DNS_BUSY);
    return EGRESS_ROOMS;
}

#endif
