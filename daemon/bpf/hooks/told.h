/* Tells the daemon which names were asked for, for people: grants have only keys.
 *
 * Users decide how many answers there are, so this has a ring of its own: a flood of answers takes
 * no room from the events. What finds no room costs its text and nothing else.
 */
#ifndef EGRESS_BPF_TOLD_H
#define EGRESS_BPF_TOLD_H

#include "maps.h"

#define EGRESS_MAX_WISHES EGRESS_TOLD_KEYS
#define EGRESS_TOLD_ROOM (1 << 19)

/* The keys of the question's name that rules name. */
struct egress_wish {
    __u64 key;
    __u32 rebinds;
    __u32 refuses; /* some of the rules do */
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, EGRESS_TOLD_ROOM);
} told SEC(".maps");

/* `name`: of the question, in its message. */
EGRESS_INLINE void begin_told(struct egress_told* answer, const struct egress_wish* wishes,
                              __u32 used, const __u8* name) {
    answer->addresses_used = 0;
    answer->keys_used = used;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_MAX_WISHES; ++i) {
        answer->keys[i] = wishes[i].key;
    }
    bpf_probe_read_kernel(answer->name, sizeof answer->name, name);
}

/* Sends what has been noted. The daemon reads once a second, and before each event; it is woken
 * only when the room becomes scarce. Not 0: there was no room. */
__noinline int egress_send_told(struct egress_told* answer) {
    if (!answer) {
        return 0;
    }
    const __u32 used = *(volatile __u32*)&answer->addresses_used;
    answer->addresses_used = 0;
    if (!used) {
        return 0;
    }
    const __u32 last = egress_masked(used - 1, EGRESS_TOLD_ADDRESSES - 1);
    const __u32 size = __builtin_offsetof(struct egress_told, addresses) +
                       (last + 1) * sizeof(struct egress_told_address);
    const int scarce = bpf_ringbuf_query(&told, BPF_RB_AVAIL_DATA) > EGRESS_TOLD_ROOM / 2;
    answer->addresses_used = used;
    const long sent =
        bpf_ringbuf_output(&told, answer, size, scarce ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
    answer->addresses_used = 0;
    return sent != 0;
}

/* Notes an address that has been granted, as two words; there must be room. It does not send: in
 * 6.1 the frames of both would overflow the stack. */
__noinline int egress_note_told(struct egress_told* answer, __u64 high, __u64 low, __u64 until,
                                __u32 keys) {
    if (!answer) {
        return 0;
    }
    const __u32 used = *(volatile __u32*)&answer->addresses_used;
    struct egress_told_address* const next =
        &answer->addresses[egress_masked(used, EGRESS_TOLD_ADDRESSES - 1)];
    ((__u64*)next->address)[0] = high;
    ((__u64*)next->address)[1] = low;
    next->until = until;
    next->keys = keys;
    next->zero = 0;
    answer->addresses_used = used + 1;
    return 0;
}

#endif
