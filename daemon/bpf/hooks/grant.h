/* Grants: the addresses of an answer are kept with the keys of the question's name that rules name,
 * until TTL and grace have passed.
 */
#ifndef EGRESS_BPF_GRANT_H
#define EGRESS_BPF_GRANT_H

#include "maps.h"
#include "told.h"
#include "verdict.h"

#include "daemon/bpf/names.h" /* after what has defined EGRESS_LOAD64 */

struct egress_label {
    __u8 bytes[EGRESS_LABEL_ROOM];
};
struct egress_secret {
    __u64 words[2];
};

/* The verifier checks it once, and not for each way that leads to it. */
__noinline __u64 egress_hash_once(const struct egress_secret* secret, __u64 rest,
                                  const struct egress_label* label, int lower) {
    return secret && label ? egress_hash_bytes(secret->words, rest, label->bytes, lower) : 0;
}
#define EGRESS_HASH_BYTES(secret, rest, label, lower)                                              \
    egress_hash_once((const struct egress_secret*)(secret), rest,                                  \
                     (const struct egress_label*)(label), lower)

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
    __u32 user_hash; /* of the socket's user */
    __u32 owner;     /* hash of the user who asks, or asked; 0: root */
    __u32 is_private;
    __u32 handed_over; /* addresses */
    __u32 number;
    __u32 sets[2]; /* of the address */
    __u32 ways[2]; /* of those: ways_of() */
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

#define EGRESS_ALL_WAYS 0x7f
#define EGRESS_FREE_WAYS 8
#define EGRESS_OWN_WAYS 16

/* Marks the ways of a set that have the grant already, from bit 0 on, those that are free, from
 * EGRESS_FREE_WAYS on, and those of the room's user, from EGRESS_OWN_WAYS on. */
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
        const __u64 foreign = *(const volatile __u16*)&set->owners[i + 1] ^ room->owner;
        out |= (__u32)((egress_not_zero(differs) ^ 1) & live & egress_not_zero(~until)) << i;
        out |= (__u32)(live ^ 1) << (i + EGRESS_FREE_WAYS);
        out |= (__u32)((egress_not_zero(foreign) ^ 1) & live) << (i + EGRESS_OWN_WAYS);
        __asm__ volatile("" : "+r"(out)); /* else the compiler keeps all of them until the end */
    }
    return out;
}

EGRESS_INLINE __u32 number_of_ways(__u32 marked) {
    __u32 out = 0;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_GRANTS_WAYS; ++i) {
        out += marked >> i & 1;
    }
    return out;
}

/* Whether the room's user may have one more way of a set with these ways. */
EGRESS_INLINE __u32 has_share(const struct egress_room* room, __u32 ways) {
    const __u32 own = number_of_ways(ways >> EGRESS_OWN_WAYS);
    const __u32 most = egress_chosen(room->owner, EGRESS_GRANTS_SHARE, EGRESS_GRANTS_WAYS);
    return egress_not_above(own + 1, most);
}

/* Makes the grant last longer, and counts it for the room's user from now on: else a user could
 * keep another's grants alive, and so use up that one's share. */
EGRESS_INLINE void prolong(struct egress_grants* set, __u32 way, const struct egress_room* room,
                           __u32 ways) {
    const __u32 place = egress_masked(way + 1, EGRESS_GRANTS_WAYS);
    struct egress_grant* const grant = (struct egress_grant*)set + place;
    const __u64 before = *(volatile __u64*)&grant->until;
    if (before < room->until &&
        __sync_val_compare_and_swap(&grant->until, before, room->until) == before &&
        has_share(room, ways)) {
        *(volatile __u16*)&set->owners[place] = room->owner;
    }
}

/* Writes the grant to a free way; 0: another CPU has just taken it. */
EGRESS_INLINE int occupy(struct egress_grants* set, __u32 way, const struct egress_room* room,
                         __u64 key) {
    const __u32 place = egress_masked(way + 1, EGRESS_GRANTS_WAYS);
    struct egress_grant* const grant = (struct egress_grant*)set + place;
    const __u64 before = *(volatile __u64*)&grant->until;
    if (before >= room->now ||
        __sync_val_compare_and_swap(&grant->until, before, EGRESS_GRANT_WRITTEN) != before) {
        return 0;
    }
    ((volatile __u64*)grant->address)[0] = ((const __u64*)room->address)[0];
    ((volatile __u64*)grant->address)[1] = ((const __u64*)room->address)[1];
    *(volatile __u64*)&grant->key = key;
    *(volatile __u16*)&set->owners[place] = room->owner;
    __sync_lock_test_and_set(&grant->until, room->until);
    return 1;
}

/* The free ways of a set that the room's user may have. */
EGRESS_INLINE __u32 free_ways(const struct egress_room* room, __u32 ways) {
    return ways >> EGRESS_FREE_WAYS & EGRESS_ALL_WAYS & -has_share(room, ways);
}

/* Finds one of the two sets of the room's address, and what it has of the grant for a key. */
__noinline int egress_find_ways(__u32 room_number, __u32 wish_number, __u32 which) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &room_number);
    if (!room) {
        return 0;
    }
    const __u64 key = room->wishes[egress_masked(wish_number, EGRESS_MAX_WISHES - 1)].key;
    const __u64 hash = egress_grants_of(room->message.secret, room->address);
    const __u32 number = egress_chosen(which, EGRESS_SECOND_SET(hash), EGRESS_FIRST_SET(hash));
    const struct egress_grants* const set = bpf_map_lookup_elem(&grants, &number);
    room->sets[which & 1] = number;
    room->ways[which & 1] = set ? ways_of(set, room, key) : 0;
    return 0;
}

#define EGRESS_GRANT_MADE 1
#define EGRESS_GRANT_MISSING 2 /* there is no room */
#define EGRESS_GRANT_LOST 3    /* another CPU took the place meanwhile */

/* Grants the room's address for one of its keys, after egress_find_ways(). */
__noinline int egress_grant_wish(__u32 room_number, __u32 wish_number) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &room_number);
    if (!room) {
        return 0;
    }
    const struct egress_wish* const wish =
        &room->wishes[egress_masked(wish_number, EGRESS_MAX_WISHES - 1)];
    if (room->is_private && !wish->rebinds) {
        count_dns(EGRESS_DNS_PRIVATE);
        return 0;
    }
    /* From the map, so that the verifier takes them for any number. */
    const __u32 in_first = *(volatile __u32*)&room->ways[0];
    const __u32 in_second = *(volatile __u32*)&room->ways[1];
    const __u32 has_first = in_first & EGRESS_ALL_WAYS;
    const __u32 has = has_first | (in_second & EGRESS_ALL_WAYS);
    /* Else the set with more room, so that neither is full long before the others are. */
    const __u32 free_first = free_ways(room, in_first);
    const __u32 free_second = free_ways(room, in_second);
    const __u32 to_first =
        egress_not_above(number_of_ways(free_second), number_of_ways(free_first));
    const __u32 in = egress_chosen(egress_chosen(has, has_first, to_first), 0, 1);
    const __u32 number = room->sets[in & 1];
    const __u32 ways = room->ways[in & 1];
    const __u32 free = egress_chosen(in, free_second, free_first);
    struct egress_grants* const set = bpf_map_lookup_elem(&grants, &number);
    if (!set) {
        return 0;
    }
    if (has) {
        prolong(set, egress_lowest(ways & EGRESS_ALL_WAYS), room, ways);
        count_dns(EGRESS_DNS_GRANTED);
        return EGRESS_GRANT_MADE;
    }
    if (!free) {
        return EGRESS_GRANT_MISSING;
    }
    if (!occupy(set, egress_lowest(free), room, wish->key)) {
        return EGRESS_GRANT_LOST;
    }
    count_dns(EGRESS_DNS_GRANTED);
    return EGRESS_GRANT_MADE;
}

/* A grant is missing. Where it would have refused nothing, doubt would only harm others. */
static __noinline int doubt(const struct egress_room* room, __u32 wish_number) {
    count_dns(EGRESS_DNS_FULL);
    if (!room || !room->wishes[egress_masked(wish_number, EGRESS_MAX_WISHES - 1)].refuses) {
        return 0;
    }
    const __u32 number = room->sets[0];
    struct egress_grants* const first = bpf_map_lookup_elem(&grants, &number);
    if (first && *(volatile __u64*)&first->doubt < room->until) {
        __sync_lock_test_and_set(&first->doubt, room->until);
    }
    return 0;
}

EGRESS_INLINE int try_to_grant(__u32 room_number, __u32 wish_number) {
    egress_find_ways(room_number, wish_number, 0);
    egress_find_ways(room_number, wish_number, 1);
    return egress_grant_wish(room_number, wish_number);
}

static long grant_wish(__u32 number, struct egress_room* const* context) {
    struct egress_room* const room = *context;
    if (number >= room->wishes_used) {
        return 1;
    }
    int done = try_to_grant(room->number, number);
    if (done == EGRESS_GRANT_LOST) { /* no loop, for the verifier of 6.1 */
        done = try_to_grant(room->number, number);
    }
    if (done == EGRESS_GRANT_LOST) {
        done = try_to_grant(room->number, number);
    }
    if (done == EGRESS_GRANT_MADE) {
        room->granted |= 1U << egress_masked(number, EGRESS_MAX_WISHES - 1);
    } else if (done) {
        doubt(room, number);
    }
    long next = 0; /* a plain 0 in the instructions: 6.1 asks for it */
    __asm__ volatile("" : "+r"(next));
    return next;
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
__noinline __u32 egress_enter_room(void) {
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
