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
#include "grant.h"
#include "job_names.h"
#include "judge.h"
#include "leg.h"
#include "maps.h"
#include "sender.h"
#include "verdict.h"

/* A user's sockets share a part, so that another user can flood only that one. */
#define EGRESS_ASKED_PARTS 256
#define EGRESS_ASKED_SETS 128 /* in a part */
#define EGRESS_ASKED_WAYS 8
#define EGRESS_ASKED_WRITTEN (~0ULL)

struct egress_asked {
    __u64 tag; /* of socket, resolver and question */
    /* Boot clock, but for the lowest bits: EGRESS_ASKED_ANSWERED, and the owner's hash.
     * EGRESS_ASKED_WRITTEN: another CPU is writing the note. */
    __u64 when;
};
#define EGRESS_ASKED_ANSWERED 1ULL
#define EGRESS_ASKED_CLOCK (~0xffffULL)
struct egress_asked_set {
    struct egress_asked each[EGRESS_ASKED_WAYS];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_ASKED_PARTS* EGRESS_ASKED_SETS);
    __type(key, __u32);
    __type(value, struct egress_asked_set);
} asked SEC(".maps");

struct egress_wishing {
    const struct egress_view* view;
    struct egress_room* room;
};

/* One of the keys that the question's name has; 0: there are no more. */
EGRESS_INLINE __u64 key_of_question(const struct egress_room* room, __u32 number) {
    const __u32 before = number > 1 ? number - 1 : number; /* labels left out */
    if (before >= room->message.labels) {
        return 0;
    }
    return egress_name_key(room->message.suffixes[egress_masked(before, 127)],
                           number > 1    ? EGRESS_PATTERN_DEEP
                           : number == 1 ? EGRESS_PATTERN_ONE
                                         : EGRESS_PATTERN_EXACT);
}

EGRESS_INLINE void add_wish(struct egress_room* room, __u64 key, __u32 found) {
    const __u32 used = room->wishes_used;
    if (found && used < EGRESS_MAX_WISHES) {
        struct egress_wish* const wish = &room->wishes[egress_masked(used, EGRESS_MAX_WISHES - 1)];
        wish->key = key;
        wish->rebinds = found & EGRESS_NAME_REBINDS;
        wish->refuses = found & EGRESS_NAME_REFUSES;
        room->wishes_used = used + 1;
    }
}

static long look_for_wish(__u32 number, struct egress_wishing* wishing) {
    struct egress_room* const room = wishing->room;
    const __u64 key = key_of_question(room, number);
    if (!key) {
        return number > 1;
    }
    add_wish(room, key, egress_find_name(wishing->view, key));
    return 0;
}

/* The same for the rules of jobs. */
static long look_for_job_wish(__u32 number, struct egress_wishing* wishing) {
    struct egress_room* const room = wishing->room;
    const __u64 key = key_of_question(room, number);
    if (!key) {
        return number > 1;
    }
    add_wish(room, key, wished_by_jobs(key));
    return 0;
}

/* Reads the question and what the rules name of it; 0: nothing, or not readable. */
__noinline int egress_read_question(__u32 number, __u64 generation) {
    struct egress_view view = {};
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room || !open_tables(&view, generation)) {
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
    bpf_loop(EGRESS_MAX_LABELS + 1, look_for_job_wish, &wishing, 0);
    add_wish(room, EGRESS_ANY_NAME, view.base->has_resolved | wished_by_jobs(EGRESS_ANY_NAME));
    return room->wishes_used != 0;
}

/* A secret number for a user, of 16 bits. */
EGRESS_INLINE __u32 hash_of_user(const struct egress_config* settings, __u32 user) {
    return (user ^ settings->path_key[1]) * 0x9e3779b97f4a7c15ULL >> 48;
}

/* Finds the user whose socket it is, which also the answer tells, and for a question the user who
 * asks: the socket may be one that root has made. */
static __noinline int know_user(struct __sk_buff* skb, __u32 number, __u64 generation) {
    const __u32 zero = 0;
    struct egress_view view = {};
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!settings || !room || !sk || !open_view(&view, generation)) {
        return 0;
    }
    __u32 uid = BPF_CORE_READ(address_of(sk), sk_uid.val);
    room->user_hash = hash_of_user(settings, user_of(&view, uid));
    if (room->leg.outward) {
        struct task_struct* const task = sender_now();
        const struct egress_socket* const kept = task ? 0 : bpf_sk_storage_get(&sockets, sk, 0, 0);
        uid = task ? task->cred->uid.val : kept ? kept->uid : uid;
        const __u32 user = user_of(&view, uid);
        const __u32 hash = hash_of_user(settings, user) >> 1;
        room->owner = egress_chosen(user, egress_chosen(hash, hash, 1), 0);
    }
    return 0;
}

/* The tag of the room's question, and where it is noted. */
struct egress_note {
    __u64 tag;
    __u32 set;
    __u32 owner; /* of the question; of an answer take_note() writes it */
};

static __noinline int tag_question(struct __sk_buff* skb, __u32 number, struct egress_note* note) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    const struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!settings || !room || !sk || !note) {
        return 0;
    }
    const __u64* const address = (const __u64*)room->leg.resolver.address;
    EGRESS_SIP_BEGIN(settings->path_key);
    EGRESS_SIP_WORD(bpf_get_socket_cookie(skb));
    EGRESS_SIP_WORD(address[0]);
    EGRESS_SIP_WORD(address[1]);
    EGRESS_SIP_WORD((__u64)room->leg.resolver.port << 48 | (__u64)room->message.type << 16 |
                    room->message.id);
    EGRESS_SIP_WORD(room->message.exact);
    note->tag = EGRESS_SIP_END;
    note->owner = room->owner;
    note->set = room->user_hash % EGRESS_ASKED_PARTS * EGRESS_ASKED_SETS +
                (note->tag & (EGRESS_ASKED_SETS - 1));
    return 1;
}

/* A place of the set for the note: one that has the tag already, has been answered or is the
 * oldest. `when`: what it has now. */
__noinline int egress_choose_place(const struct egress_asked_set* set, __u64 tag, __u64* when) {
    int place = 0;
    __u64 oldest = ~0ULL;
    if (!set || !when) {
        return 0;
    }
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_ASKED_WAYS; ++i) {
        const volatile struct egress_asked* const one = &set->each[i];
        const __u64 since = one->when;
        const __u64 waits = (since & 1) - 1; /* all bits are set, or none */
        const __u64 age = since == EGRESS_ASKED_WRITTEN ? since
                          : one->tag == tag             ? 0
                                                        : since & waits;
        if (age < oldest) {
            oldest = age;
            place = i;
            *when = since;
        }
    }
    return place;
}

static __noinline int note_question(const struct egress_note* note) {
    const __u32 at = note ? note->set : 0;
    struct egress_asked_set* const set = bpf_map_lookup_elem(&asked, &at);
    const __u64 now = bpf_ktime_get_boot_ns() & EGRESS_ASKED_CLOCK;
    if (!set || !note) {
        return 0;
    }
    for (int tries = 0; tries < EGRESS_ASKED_WAYS; ++tries) {
        __u64 when = EGRESS_ASKED_WRITTEN;
        const int place = egress_choose_place(set, note->tag, &when) & (EGRESS_ASKED_WAYS - 1);
        struct egress_asked* const one = &set->each[place];
        /* Another CPU may have taken the place meanwhile. */
        if (when == EGRESS_ASKED_WRITTEN ||
            __sync_val_compare_and_swap(&one->when, when, EGRESS_ASKED_WRITTEN) != when) {
            continue;
        }
        if (!(when & EGRESS_ASKED_ANSWERED) && one->tag != note->tag &&
            now - (when & EGRESS_ASKED_CLOCK) < EGRESS_DNS_PATIENCE) {
            count_dns(EGRESS_DNS_FORGOTTEN);
        }
        *(volatile __u64*)&one->tag = note->tag;
        *(volatile __u64*)&one->when = now | note->owner << 1;
        count_dns(EGRESS_DNS_ASKED);
        return 1;
    }
    count_dns(EGRESS_DNS_FORGOTTEN);
    return 0;
}

/* Takes the note of the question that is answered; not 0: why the answer does not count. */
static __noinline __u32 take_note(struct egress_note* note) {
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
            if (when & EGRESS_ASKED_ANSWERED ||
                __sync_val_compare_and_swap(&one->when, when, when | EGRESS_ASKED_ANSWERED) !=
                    when) {
                return EGRESS_DNS_REPEATED;
            }
            note->owner = (when & ~EGRESS_ASKED_CLOCK) >> 1;
            return bpf_ktime_get_boot_ns() - (when & EGRESS_ASKED_CLOCK) < EGRESS_DNS_PATIENCE
                       ? 0
                       : EGRESS_DNS_LATE;
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
    room->untold = 0;
    begin_told(&room->told, room->wishes, room->wishes_used,
               &room->message.bytes[EGRESS_DNS_HEADER]);
    const __u32 wrong = egress_dns_answers(&room->message, room);
    if (egress_send_told(&room->told) || room->untold) {
        count_dns(EGRESS_DNS_UNTOLD);
    }
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

#define EGRESS_LOOPBACK_DEVICE 1 /* in every network namespace */

EGRESS_INLINE int is_loopback(const __u8* address) {
    const __u64* const halves = (const __u64*)address;
    return egress_is_v4(address) ? address[12] == 127
                                 : !halves[0] && halves[1] == __builtin_bswap64(1);
}

/* Whether an answer to the socket would be the resolver's. Where users have made a network for
 * themselves, they can answer what they like from any address; and a container may have servers of
 * its own at the addresses of loopback. */
static __noinline int trusts_network(struct __sk_buff* skb, __u32 number) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    const struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!settings || !room || !sk) {
        return 0;
    }
    struct net* const net = BPF_CORE_READ(address_of(sk), __sk_common.skc_net.net);
    if (BPF_CORE_READ(net, user_ns, level) != 0) {
        return 0;
    }
    return !is_loopback(room->leg.resolver.address) ||
           BPF_CORE_READ(net, ns.inum) == settings->net_namespace;
}

/* Whether a program of this host may have made up the answer's source, with IPV6_FREEBIND: it came
 * from here, though not from a loopback address, and from a port that any user may take. */
static __noinline int may_be_made_up(struct __sk_buff* skb, __u32 number) {
    const struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    return !room || (skb->ifindex == EGRESS_LOOPBACK_DEVICE && room->leg.resolver.port >= 1024 &&
                     !is_loopback(room->leg.resolver.address));
}

/* Reads the room's message: a question to be noted, or an answer. */
__noinline int egress_read_message(struct __sk_buff* skb, __u32 number, __u64 generation) {
    struct egress_note note = {};
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room || !egress_read_question(number, generation) || !tag_question(skb, number, &note)) {
        return 0;
    }
    const __u32 response = room->message.flags & EGRESS_DNS_RESPONSE;
    if (room->leg.outward) {
        return response || !trusts_network(skb, number) ? 0 : note_question(&note);
    }
    const int counts = response && !may_be_made_up(skb, number);
    const __u32 wrong = counts ? take_note(&note) : EGRESS_DNS_UNASKED;
    if (wrong) {
        count_dns(wrong);
        return 0;
    }
    room->owner = note.owner;
    return egress_grant_answer(number);
}

#endif
