/* Questions to the approved resolvers and their answers, read on their way at the socket that asks:
 * a grant is there before the program can see the address.
 *
 * A question is noted if some rule names its name, and counts once, for EGRESS_DNS_PATIENCE. An
 * answer has to come from the resolver that was asked, to the socket that asked, with the same id,
 * type and name, in the same case. What cannot be read grants nothing and is counted.
 */
#ifndef EGRESS_BPF_RESOLVE_H
#define EGRESS_BPF_RESOLVE_H

#include "answer.h"
#include "judge.h"
#include "maps.h"
#include "verdict.h"

EGRESS_INLINE void egress_dns_take(void* taker, const __u8* address, __u32 ttl);
#include "daemon/bpf/dns.h"

/* A user's sockets share a part, so that another user can flood only that one. */
#define EGRESS_ASKED_PARTS 64
#define EGRESS_ASKED_SETS 256 /* in a part */
#define EGRESS_ASKED_WAYS 4
#define EGRESS_ROOMS 16      /* messages that are being read at once */
#define EGRESS_MAX_WISHES 16 /* keys of one name that rules name */
#define EGRESS_MAX_PIPED 4   /* messages in one segment of TCP */

struct egress_asked {
    __u64 tag;  /* of socket, resolver and question */
    __u64 when; /* boot clock; the lowest bit: it has been answered */
};
struct egress_asked_set {
    struct egress_asked each[EGRESS_ASKED_WAYS];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_ASKED_PARTS* EGRESS_ASKED_SETS);
    __type(key, __u32);
    __type(value, struct egress_asked_set);
} asked SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, EGRESS_MAX_RESOLVERS);
    __type(key, struct egress_resolver);
    __type(value, __u32);
} resolvers SEC(".maps");

/* By enum egress_dns. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_DNS_OUTCOMES);
    __type(key, __u32);
    __type(value, __u64);
} dns_outcomes SEC(".maps");

/* The keys of the question's name that rules name. */
struct egress_wish {
    __u64 key;
    __u32 rebinds;
    __u32 zero;
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
    struct egress_dns_message message;
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

/* Grants the room's address for one of its keys. */
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
        return 0;
    }
    if (in_second & 0xff) {
        prolong(second, egress_lowest(in_second & 0xff), room->until);
        count_dns(EGRESS_DNS_GRANTED);
        return 0;
    }
    /* The set with more room, so that neither is full long before the others are. */
    const int to_first = number_of_ways(in_first >> 8) >= number_of_ways(in_second >> 8);
    const __u32 free = (to_first ? in_first : in_second) >> 8;
    if (free && occupy(to_first ? first : second, egress_lowest(free), room, key)) {
        count_dns(EGRESS_DNS_GRANTED);
        return 0;
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
    egress_grant_wish(room->number, number);
    return 0;
}

EGRESS_INLINE void egress_dns_take(void* taker, const __u8* address, __u32 ttl) {
    struct egress_room* room = taker;
    const __u64 seconds = ttl < EGRESS_DNS_LONGEST ? ttl : EGRESS_DNS_LONGEST;
    __builtin_memcpy(room->address, address, sizeof room->address);
    room->until = room->now + seconds * EGRESS_SECOND + room->grace;
    room->is_private = is_private_address(room->address);
    ++room->handed_over;
    bpf_loop(EGRESS_MAX_WISHES, grant_wish, &room, 0);
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

/* Where a message of the DNS is in a packet, and whom it is for or from. */
struct egress_leg {
    struct egress_resolver resolver;
    __u32 at; /* of the message or, with TCP, of the length in front of it */
    __u32 end;
    __u32 protocol;
    __u32 outward;
};

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

/* Fills in the leg; 0: the packet has no message from or for an approved resolver. */
static __noinline int find_leg(struct __sk_buff* skb, struct egress_leg* leg) {
    __u32 ip[10];
    __u16 ports[2];
    __u8 offset = 0;
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
    if (outward && sk && sk->state == EGRESS_ESTABLISHED) {
        put_resolver(&leg->resolver, sk);
    }
    if (!bpf_map_lookup_elem(&resolvers, &leg->resolver)) {
        return 0;
    }
    if (leg->protocol == IPPROTO_TCP) {
        if (bpf_skb_load_bytes(skb, at + 12, &offset, 1)) {
            return 0;
        }
        leg->at = at + (offset >> 4) * 4;
    } else {
        leg->at = at + 8;
    }
    leg->end = skb->len;
    return leg->at < leg->end;
}

/* Loads the message into the room and steps behind it in the packet; 0: it is not whole. */
static __noinline int load_message(struct __sk_buff* skb, struct egress_leg* leg, __u32 number) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    __u8 prefix[2];
    if (!leg || !room) {
        return 0;
    }
    __u32 size = leg->end - leg->at;
    if (leg->protocol == IPPROTO_TCP) {
        if (bpf_skb_load_bytes(skb, leg->at, prefix, 2)) {
            return 0;
        }
        leg->at += 2;
        size = (__u32)prefix[0] << 8 | prefix[1];
    }
    if (size >= EGRESS_DNS_BYTES || size < EGRESS_DNS_HEADER || leg->at + size > leg->end) {
        return 0;
    }
    /* The verifier of 6.1 wants to see that it is not 0. */
    const __u32 bounded = egress_masked(size - 1, EGRESS_DNS_BYTES - 1) + 1;
    if (bpf_skb_load_bytes(skb, leg->at, room->message.bytes, bounded)) {
        return 0;
    }
    room->message.length = bounded;
    leg->at += bounded;
    return 1;
}

struct egress_wishing {
    const struct egress_view* view;
    struct egress_room* room;
};

/* Looks for one of the keys that the question's name has. */
static long look_for_wish(__u32 number, struct egress_wishing* wishing) {
    struct egress_room* const room = wishing->room;
    const __u32 labels = room->message.labels;
    const __u32 used = room->wishes_used;
    const __u32 before = number > 1 ? number - 1 : number; /* labels left out */
    if (before >= labels || used >= EGRESS_MAX_WISHES) {
        return number > 1;
    }
    const __u64 hash = room->message.suffixes[egress_masked(before, 127)];
    const __u64 key = egress_name_key(hash, number > 1    ? EGRESS_PATTERN_DEEP
                                            : number == 1 ? EGRESS_PATTERN_ONE
                                                          : EGRESS_PATTERN_EXACT);
    const __u32 found = egress_find_name(wishing->view, key);
    if (found) {
        struct egress_wish* const wish = &room->wishes[egress_masked(used, EGRESS_MAX_WISHES - 1)];
        wish->key = key;
        wish->rebinds = found & EGRESS_NAME_REBINDS;
        room->wishes_used = used + 1;
    }
    return 0;
}

/* Reads the question and what the rules name of it; 0: nothing, or not readable. */
__noinline int egress_read_question(__u32 number, __u64 generation) {
    struct egress_view view = {};
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room || !open_tables(&view, generation) || !view.base->has_names) {
        return 0;
    }
    struct egress_wishing wishing = {&view, room};
    room->wishes_used = 0;
    room->message.secret[0] = view.base->names_key[0];
    room->message.secret[1] = view.base->names_key[1];
    const __u32 wrong = egress_dns_question(&room->message);
    if (wrong) {
        count_dns(wrong);
        return 0;
    }
    if (!egress_dns_asks_address(&room->message)) {
        return 0;
    }
    bpf_loop(EGRESS_MAX_LABELS + 1, look_for_wish, &wishing, 0);
    const __u32 used = room->wishes_used;
    if (view.base->has_resolved && used < EGRESS_MAX_WISHES) {
        struct egress_wish* const wish = &room->wishes[egress_masked(used, EGRESS_MAX_WISHES - 1)];
        wish->key = EGRESS_ANY_NAME;
        wish->rebinds = 0;
        room->wishes_used = used + 1;
    }
    return room->wishes_used != 0;
}

/* The tag of the room's question, and where it is noted. */
struct egress_note {
    __u64 tag;
    __u32 set;
    __u32 zero;
};

static __noinline int tag_question(struct __sk_buff* skb, const struct egress_leg* leg,
                                   __u32 number, struct egress_note* note) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    const struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!settings || !room || !sk || !note || !leg) {
        return 0;
    }
    const __u64* const address = (const __u64*)leg->resolver.address;
    const __u32 uid = BPF_CORE_READ(address_of(sk), sk_uid.val);
    EGRESS_SIP_BEGIN(settings->path_key);
    EGRESS_SIP_WORD(bpf_get_socket_cookie(skb));
    EGRESS_SIP_WORD(address[0]);
    EGRESS_SIP_WORD(address[1]);
    EGRESS_SIP_WORD((__u64)leg->resolver.port << 48 | (__u64)room->message.type << 16 |
                    room->message.id);
    EGRESS_SIP_WORD(room->message.exact);
    note->tag = EGRESS_SIP_END;
    const __u64 part = (uid ^ settings->path_key[1]) * 0x9e3779b97f4a7c15ULL >> 58;
    note->set = part * EGRESS_ASKED_SETS + (note->tag & (EGRESS_ASKED_SETS - 1));
    return 1;
}

static __noinline int note_question(const struct egress_note* note) {
    const __u32 at = note ? note->set : 0;
    struct egress_asked_set* const set = bpf_map_lookup_elem(&asked, &at);
    const __u64 now = bpf_ktime_get_boot_ns() & ~1ULL;
    __u32 place = 0;
    __u64 oldest = ~0ULL;
    if (!set || !note) {
        return 0;
    }
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_ASKED_WAYS; ++i) {
        volatile struct egress_asked* const one = &set->each[i];
        const __u64 answered = -(one->when & 1);
        /* Rather one that has been answered than one that waits. */
        const __u64 age = one->tag == note->tag ? 0 : one->when & ~answered;
        if (age < oldest) {
            oldest = age;
            place = i;
        }
    }
    if (oldest && now - oldest < EGRESS_DNS_PATIENCE) {
        count_dns(EGRESS_DNS_FORGOTTEN);
    }
    volatile struct egress_asked* const one = &set->each[place & (EGRESS_ASKED_WAYS - 1)];
    one->when = 1;
    one->tag = note->tag;
    one->when = now;
    count_dns(EGRESS_DNS_ASKED);
    return 1;
}

/* Takes the note of the question that is answered; not 0: why the answer does not count. */
static __noinline __u32 take_note(const struct egress_note* note) {
    const __u32 at = note ? note->set : 0;
    struct egress_asked_set* const set = bpf_map_lookup_elem(&asked, &at);
    if (!set || !note) {
        return EGRESS_DNS_UNASKED;
    }
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_ASKED_WAYS; ++i) {
        struct egress_asked* const one = &set->each[i];
        if (*(volatile __u64*)&one->tag == note->tag) {
            const __u64 when = *(volatile __u64*)&one->when;
            if (when & 1 || __sync_val_compare_and_swap(&one->when, when, when | 1) != when) {
                return EGRESS_DNS_REPEATED;
            }
            return bpf_ktime_get_boot_ns() - when < EGRESS_DNS_PATIENCE ? 0 : EGRESS_DNS_LATE;
        }
    }
    return EGRESS_DNS_UNASKED;
}

/* Grants what the room's answer names. */
__noinline int egress_grant_answer(__u32 number) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!settings || !room) {
        return 0;
    }
    room->now = bpf_ktime_get_boot_ns();
    room->grace = settings->dns_grace;
    room->handed_over = 0;
    const __u32 wrong = egress_dns_answers(&room->message, room);
    if (wrong) {
        count_dns(wrong);
        return 0;
    }
    count_dns(EGRESS_DNS_READ);
    if (room->message.flags & EGRESS_DNS_CUT) {
        count_dns(EGRESS_DNS_TRUNCATED);
    } else if (!room->handed_over) {
        count_dns(EGRESS_DNS_NEGATIVE);
    }
    return 0;
}

/* Reads the message that the leg leads to. */
static __noinline int read_message(struct __sk_buff* skb, struct egress_leg* leg, __u32 number,
                                   __u64 generation) {
    struct egress_note note = {};
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!leg || !room || !egress_read_question(number, generation) ||
        !tag_question(skb, leg, number, &note)) {
        return 0;
    }
    if (leg->outward) {
        return room->message.flags & EGRESS_DNS_RESPONSE ? 0 : note_question(&note);
    }
    const __u32 wrong =
        room->message.flags & EGRESS_DNS_RESPONSE ? take_note(&note) : EGRESS_DNS_UNASKED;
    if (wrong) {
        count_dns(wrong);
        return 0;
    }
    return egress_grant_answer(number);
}

/* Reads the questions (outward) or answers in a packet. */
__noinline int egress_read_dns(struct __sk_buff* skb, int outward, __u64 generation) {
    struct egress_leg leg = {.outward = outward};
    if (!find_leg(skb, &leg)) {
        return 0;
    }
    const __u32 number = enter_room();
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room) {
        return 0;
    }
    for (int i = 0; i < EGRESS_MAX_PIPED && leg.at < leg.end; ++i) {
        if (!load_message(skb, &leg, number)) {
            count_dns(leg.protocol == IPPROTO_TCP ? EGRESS_DNS_STREAM : EGRESS_DNS_UNREADABLE);
            break;
        }
        read_message(skb, &leg, number, generation);
    }
    __sync_lock_test_and_set(&room->taken, 0);
    return 0;
}

/* Whether a packet of the socket may have a message of the DNS that matters. */
EGRESS_INLINE int may_have_dns(const struct bpf_sock* sk, const struct egress_config* settings) {
    return settings->reads_names &&
           ((sk->protocol == IPPROTO_UDP && sk->type == SOCK_DGRAM) || sk->protocol == IPPROTO_TCP);
}

#endif
