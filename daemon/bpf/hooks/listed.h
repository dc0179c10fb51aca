/* [dns] "queries listed": a question to an approved resolver leaves only for a name that some line
 * would let the asking process reach, so that no data leaves within names.
 *
 * Who asks is found out before the questions of a packet are read (question.h): together, both
 * would overflow the stack of 6.1. What the lines leave to the asker waits in a piece of the
 * scratch.
 */
#ifndef EGRESS_BPF_LISTED_H
#define EGRESS_BPF_LISTED_H

#include "resolve.h"
#include "scratch.h"

/* egress_read_dns(): the packet asks for a name that is not listed. */
#define EGRESS_NOT_LISTED 2

struct egress_listing {
    const struct egress_view* view;
    const struct egress_room* room;
    const struct egress_vector* rules; /* that may be the asker's */
    __u64 found;
};

static long look_for_listed(__u32 number, struct egress_listing* listing) {
    const __u64 key = key_of_question(listing->room, number);
    if (!key) {
        return number > 1;
    }
    const __u32 index = egress_find_name(listing->view, key) & EGRESS_NAME_INDEX;
    const struct egress_vector* const named = vector_at(listing->view, index);
    __u64 any = 0;
    if (named && index) {
        for (int w = 0; w < EGRESS_WORDS; ++w) {
            any |= named->words[w] & listing->rules->words[w];
        }
    }
    listing->found = any;
    return any != 0;
}

/* Whether one of the asker's two policies lets the room's question leave. */
__noinline int egress_is_listed(__u32 number, __u32 asker, int of_job) {
    struct egress_view view = {};
    const struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    const struct egress_scratch* const piece = bpf_map_lookup_elem(&scratch, &asker);
    if (!room || !piece) {
        return 0;
    }
    const __u32 which = of_job != 0;
    const __u64 generation = piece->asker.generations[which];
    if (!generation) {
        return 1; /* it lists no questions */
    }
    if (!open_tables(&view, generation)) {
        return 0;
    }
    struct egress_listing listing = {&view, room, &piece->asker.rules[which], 0};
    bpf_loop(EGRESS_MAX_LABELS + 1, look_for_listed, &listing, 0);
    return listing.found != 0;
}

/* Tells the daemon the name that is refused, for the event, as if it had led to the resolver and
 * ended at once. */
__noinline int egress_note_refused(__u32 number, __u32 asker) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    struct egress_scratch* const piece = bpf_map_lookup_elem(&scratch, &asker);
    if (!room || !piece) {
        return 0;
    }
    piece->asker.key = 0;
    if (room->message.labels) {
        const __u64 key = egress_name_key(room->message.suffixes[0], EGRESS_PATTERN_EXACT);
        const __u64* const address = (const __u64*)room->leg.resolver.address;
        piece->asker.key = key;
        begin_told(&room->told, room->wishes, 1, &room->message.bytes[EGRESS_DNS_HEADER]);
        room->told.keys[0] = key;
        egress_note_told(&room->told, address[0], address[1], bpf_ktime_get_boot_ns(), 1);
        if (egress_send_told(&room->told)) {
            count_dns(EGRESS_DNS_UNTOLD);
        }
    }
    return 0;
}

/* Bytes that may follow a question: the record of EDNS (11), and some of its options. */
#define EGRESS_QUESTION_EXTRAS 75

/* Whether the message has more than the question that was read. */
EGRESS_INLINE int has_freight(const struct egress_dns_message* message) {
    const __u32 extras = egress_dns_two(message, 10);
    return egress_dns_two(message, 6) || egress_dns_two(message, 8) || extras > 1 ||
           message->length - message->at > (extras ? EGRESS_QUESTION_EXTRAS : 0);
}

/* EGRESS_PASS: the room's message may leave; else EGRESS_NOT_LISTED. While the daemon monitors it
 * leaves, too, and only the room notes it. */
__noinline int egress_may_leave(__u32 number) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room || !settings) {
        return EGRESS_NOT_LISTED;
    }
    const __u32 asker = room->asker;
    if (!asker) {
        return EGRESS_PASS;
    }
    if (room->message.flags & (EGRESS_DNS_RESPONSE | EGRESS_DNS_OPCODE) ||
        has_freight(&room->message)) {
        room->message.labels = 0; /* no question, or more than one */
    }
    if (room->message.labels && egress_is_listed(number, asker, 0) &&
        egress_is_listed(number, asker, 1)) {
        return EGRESS_PASS;
    }
    count_dns(EGRESS_DNS_NOT_LISTED);
    egress_note_refused(number, asker);
    room->unlisted = 1;
    return settings->monitor ? EGRESS_PASS : EGRESS_NOT_LISTED;
}

#endif
