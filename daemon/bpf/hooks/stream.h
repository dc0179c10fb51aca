/* Follows what a socket and a resolver say to each other. A message over TCP may come in any number
 * of segments: what is there of it is kept in a heap until it is whole. The program must never see
 * a byte of an answer that was not read here, so a segment that comes too early, or that finds no
 * room, is dropped: its sender repeats it.
 */
#ifndef EGRESS_BPF_STREAM_H
#define EGRESS_BPF_STREAM_H

#include "listed.h"
#include "question.h"
#include "resolve.h"

/* A user's sockets share a part of the heaps, so that another user can take only that one. */
#define EGRESS_HEAP_PARTS 16
#define EGRESS_HEAP_WAYS 4
#define EGRESS_HEAPS (EGRESS_HEAP_PARTS * EGRESS_HEAP_WAYS)
#define EGRESS_NO_HEAP EGRESS_HEAPS
#define EGRESS_HEAP_LOST (EGRESS_HEAPS + 1)
#define EGRESS_HEAP_PATIENCE EGRESS_DNS_PATIENCE /* for the next byte, then others may take it */
#define EGRESS_CHUNK 4096                        /* bytes that are copied at once */
#define EGRESS_MAX_CHUNKS 20                     /* of one packet */
#define EGRESS_MAX_MESSAGES 128                  /* that are read of one packet */

/* A message of which some bytes have come. */
struct egress_heap {
    __u64 owner; /* a socket's cookie and a direction; 0: free */
    __u64 touched;
    __u32 busy;
    __u32 zero;
    __u8 bytes[EGRESS_DNS_BYTES + EGRESS_CHUNK];
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_HEAPS);
    __type(key, __u32);
    __type(value, struct egress_heap);
} heaps SEC(".maps");

/* One direction of a connection. */
struct egress_side {
    __u32 next; /* sequence number of the first byte that has not been read */
    __u32 busy;
    __u32 size;   /* of the message that has begun; 0: none has */
    __u32 filled; /* bytes of it that have come */
    __u32 heap;   /* where they are; EGRESS_NO_HEAP: not needed yet; EGRESS_HEAP_LOST */
    __u32 half;   /* the first byte of a size, and 256; 0: none */
    __u32 known;  /* `next` is */
    __u32 closed; /* a question was refused: nothing more may be sent */
};
struct egress_dialog {
    struct egress_side sides[2]; /* inward, outward */
};

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct egress_dialog);
} dialogs SEC(".maps");

/* egress_next_message() */
#define EGRESS_END 0        /* nothing more, or it cannot be read now */
#define EGRESS_MESSAGE 1    /* it is in the room */
#define EGRESS_NO_MESSAGE 2 /* it cannot be read */

struct egress_progress {
    struct __sk_buff* skb;
    struct egress_room* room;
    struct egress_side* side;
    __u32 number; /* of the room */
    __u32 found;
};

static __noinline struct egress_side* side_of(struct __sk_buff* skb, __u32 outward) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    struct egress_dialog* const dialog =
        sk ? bpf_sk_storage_get(&dialogs, sk, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
    return dialog ? &dialog->sides[outward & 1] : 0;
}

/* Tells the directions of all sockets apart. */
EGRESS_INLINE __u64 heap_owner(struct __sk_buff* skb, __u32 outward) {
    return bpf_get_socket_cookie(skb) << 1 | (outward & 1);
}

EGRESS_INLINE int may_be_taken(const struct egress_heap* heap, __u64 now) {
    const __u64 owner = *(const volatile __u64*)&heap->owner;
    return !owner || now - *(const volatile __u64*)&heap->touched > EGRESS_HEAP_PATIENCE;
}

/* Takes a heap for the socket and returns its number; EGRESS_NO_HEAP: none is free. */
static __noinline __u32 take_heap(struct __sk_buff* skb, __u32 outward, __u32 user_hash) {
    const __u64 now = bpf_ktime_get_boot_ns();
    const __u32 part = user_hash & (EGRESS_HEAP_PARTS - 1);
    for (__u32 i = 0; i < EGRESS_HEAP_WAYS; ++i) {
        const __u32 number = part * EGRESS_HEAP_WAYS + i;
        struct egress_heap* const heap = bpf_map_lookup_elem(&heaps, &number);
        /* Looks before it locks, as the owner does not wait for a lock. */
        if (!heap || !may_be_taken(heap, now) || __sync_lock_test_and_set(&heap->busy, 1)) {
            continue;
        }
        const int is_free = may_be_taken(heap, now);
        if (is_free) {
            heap->owner = heap_owner(skb, outward);
            heap->touched = now;
        }
        __sync_lock_test_and_set(&heap->busy, 0);
        if (is_free) {
            return number;
        }
    }
    return EGRESS_NO_HEAP;
}

/* What became of a chunk. */
#define EGRESS_CHUNK_LOST 0  /* the heap is another socket's now */
#define EGRESS_CHUNK_ADDED 1 /* to the heap; with the last one the room has the message */
#define EGRESS_CHUNK_LATER 2 /* another CPU looks whether the heap is free */
#define EGRESS_CHUNK_WRONG 3 /* the message cannot be read */

/* Adds bytes of the packet to the heap. The last ones end it: its bytes are the room's message. */
static __noinline int add_chunk(struct __sk_buff* skb, struct egress_room* room,
                                const struct egress_side* side, __u32 size) {
    if (!room || !side) {
        return EGRESS_CHUNK_LOST;
    }
    const __u32 number = side->heap;
    struct egress_heap* const heap = bpf_map_lookup_elem(&heaps, &number);
    if (!heap) {
        return EGRESS_CHUNK_LOST;
    }
    if (__sync_lock_test_and_set(&heap->busy, 1)) {
        return EGRESS_CHUNK_LATER;
    }
    int done = EGRESS_CHUNK_LOST;
    if (heap->owner == heap_owner(skb, room->leg.outward)) {
        const __u32 to = egress_masked(side->filled, EGRESS_DNS_BYTES - 1);
        const __u32 bounded = egress_masked(size - 1, EGRESS_CHUNK - 1) + 1;
        long failed = bpf_skb_load_bytes(skb, room->leg.at, heap->bytes + to, bounded);
        heap->touched = bpf_ktime_get_boot_ns();
        if (side->filled + size >= side->size) {
            const __u32 whole = egress_masked(side->size - 1, EGRESS_DNS_BYTES - 1) + 1;
            failed |= bpf_probe_read_kernel(room->message.bytes, whole, heap->bytes);
            failed |= whole < EGRESS_DNS_HEADER || whole >= EGRESS_DNS_BYTES;
            room->message.length = whole;
            heap->owner = 0;
        }
        done = failed ? EGRESS_CHUNK_WRONG : EGRESS_CHUNK_ADDED;
    }
    __sync_lock_test_and_set(&heap->busy, 0);
    return done;
}

/* Reads the size in front of a message, a byte at a time; 0: it is not whole yet. */
static __noinline int read_size(struct __sk_buff* skb, struct egress_leg* leg,
                                struct egress_side* side) {
    __u8 byte = 0;
    if (!leg || !side) {
        return 0;
    }
    for (int i = 0; i < 2; ++i) {
        if (leg->at >= leg->end || bpf_skb_load_bytes(skb, leg->at, &byte, 1)) {
            return 0;
        }
        leg->at += 1;
        if (side->half) {
            break;
        }
        side->half = 256 | byte;
    }
    side->size = (side->half & 255) << 8 | byte;
    side->half = 0;
    side->filled = 0;
    side->heap = EGRESS_NO_HEAP;
    return 1;
}

/* Adds what the packet has of the message that has begun. */
static __noinline int collect(struct __sk_buff* skb, struct egress_room* room,
                              struct egress_side* side) {
    if (!room || !side) {
        return EGRESS_CHUNK_LATER;
    }
    if (side->heap == EGRESS_NO_HEAP) {
        side->heap = take_heap(skb, room->leg.outward, room->user_hash);
        if (side->heap == EGRESS_NO_HEAP) {
            return EGRESS_CHUNK_LATER;
        }
    }
    const __u32 left = room->leg.end - room->leg.at;
    __u32 take = side->size - side->filled;
    take = take < left ? take : left;
    take = take < EGRESS_CHUNK ? take : EGRESS_CHUNK;
    const int done = add_chunk(skb, room, side, take);
    if (done == EGRESS_CHUNK_LATER) {
        return done;
    }
    if (done == EGRESS_CHUNK_LOST) {
        side->heap = EGRESS_HEAP_LOST;
    }
    room->leg.at += take;
    side->filled += take;
    return done;
}

/* Takes a step towards the next message; not 0: it is there, or no more can be read now. */
static long step_to_message(__u32 step, struct egress_progress* progress) {
    struct egress_room* const room = progress->room;
    struct egress_side* const side = progress->side;
    (void)step;
    if ((!side->size && !read_size(progress->skb, &room->leg, side)) ||
        room->leg.at >= room->leg.end) {
        return 1;
    }
    const __u32 size = side->size;
    if (side->heap == EGRESS_NO_HEAP && size <= room->leg.end - room->leg.at) {
        side->size = 0;
        progress->found = load_message(progress->skb, progress->number, size) ? EGRESS_MESSAGE
                                                                              : EGRESS_NO_MESSAGE;
        return 1;
    }
    const int done = collect(progress->skb, room, side);
    if (done == EGRESS_CHUNK_LATER) {
        return 1;
    }
    if (side->filled < size) {
        return 0;
    }
    if (done == EGRESS_CHUNK_LOST) {
        count_dns(EGRESS_DNS_STREAM);
    }
    progress->found = done == EGRESS_CHUNK_ADDED ? EGRESS_MESSAGE : EGRESS_NO_MESSAGE;
    side->size = 0;
    return 1;
}

/* Brings the next message of a packet into the room, and forgets the question of the one before. */
__noinline int egress_next_message(struct __sk_buff* skb, __u32 number) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room) {
        return EGRESS_END;
    }
    room->message.labels = 0;
    room->message.flags = 0;
    const __u32 left = room->leg.end - room->leg.at;
    if (room->leg.at >= room->leg.end) {
        return EGRESS_END;
    }
    struct egress_progress progress = {
        .skb = skb, .room = room, .number = number, .found = EGRESS_END + (__u32)egress_zero(left)};
    if (room->leg.protocol == IPPROTO_UDP) {
        const __u32 piece = room->leg.piece;
        const __u32 size = piece && piece < left ? piece : left;
        progress.found = load_message(skb, number, size) ? EGRESS_MESSAGE : EGRESS_NO_MESSAGE;
    } else {
        progress.side = side_of(skb, room->leg.outward);
        if (progress.side) {
            bpf_loop(EGRESS_MAX_CHUNKS, step_to_message, &progress, 0);
        }
    }
    const __u32 found = progress.found + (__u32)egress_zero(left);
    if (found == EGRESS_NO_MESSAGE) {
        count_dns(EGRESS_DNS_UNREADABLE);
    }
    return found;
}

/* Whether the socket has sent nothing before this segment, so that a message begins with it. */
static __noinline int is_first(struct bpf_sock* sk, const struct egress_leg* leg) {
    struct bpf_tcp_sock* const tcp = bpf_tcp_sock(sk);
    if (!tcp || !leg) {
        return 0;
    }
    const __u32 unacknowledged = *(volatile __u32*)&tcp->snd_una;
    const __u64 acknowledged = *(volatile __u64*)&tcp->bytes_acked;
    return sk->state == EGRESS_SYN_SENT ||
           (unacknowledged == leg->sequence && acknowledged <= 1); /* the SYN */
}

/* Steps over what the segment has that has been read. 0: it comes too early, or the hooks have not
 * seen the connection from its beginning, so that they cannot tell where a question begins. */
static __noinline int meet(struct __sk_buff* skb, struct egress_room* room,
                           struct egress_side* side) {
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!room || !side || !sk) {
        return 0;
    }
    struct egress_leg* const leg = &room->leg;
    if (!side->known && room->asker && !is_first(sk, leg)) {
        side->closed = 1;
        return 0;
    }
    if (!side->known) {
        struct bpf_tcp_sock* const tcp = bpf_tcp_sock(sk);
        __u32 next = leg->sequence;
        if (!leg->outward && tcp && sk->state == EGRESS_ESTABLISHED) {
            next = *(volatile __u32*)&tcp->rcv_nxt;
        }
        side->next = next;
        side->known = 1;
    }
    const __s32 gone = (__s32)(side->next - leg->sequence);
    if (gone < 0) {
        return 0;
    }
    const __u32 size = leg->end - leg->at;
    leg->at += (__u32)gone < size ? (__u32)gone : size;
    return 1;
}

/* Begins to read a packet; 0: not now, as it is a segment of TCP that comes too early. */
__noinline int egress_begin_reading(struct __sk_buff* skb, __u32 number) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (room && room->leg.protocol != IPPROTO_TCP) {
        return 1;
    }
    struct egress_side* const side = room ? side_of(skb, room->leg.outward) : 0;
    if (!side || __sync_lock_test_and_set(&side->busy, 1)) {
        return 0;
    }
    if (!side->closed && meet(skb, room, side)) {
        return 1;
    }
    __sync_lock_test_and_set(&side->busy, 0);
    return 0;
}

/* Notes how much of it has been read; 0: not all. */
__noinline int egress_end_reading(struct __sk_buff* skb, __u32 number, int refused) {
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (room && room->leg.protocol != IPPROTO_TCP) {
        return room->leg.at >= room->leg.end;
    }
    struct egress_side* const side = room ? side_of(skb, room->leg.outward) : 0;
    if (!side) {
        return 0;
    }
    side->closed = refused;
    const __u32 next = room->leg.sequence + (room->leg.at - room->leg.from);
    side->next = (__s32)(next - side->next) > 0 ? next : side->next;
    __sync_lock_test_and_set(&side->busy, 0);
    return room->leg.at >= room->leg.end;
}

/* Reads the messages of a packet. */
__noinline int egress_read_messages(struct __sk_buff* skb, __u32 number, __u64 generation) {
    int left = EGRESS_PASS;
    if (!egress_begin_reading(skb, number)) {
        return EGRESS_REFUSE;
    }
    for (int i = 0; i < EGRESS_MAX_MESSAGES; ++i) {
        const int found = egress_next_message(skb, number);
        if (found == EGRESS_END) {
            break;
        }
        if (found == EGRESS_MESSAGE) {
            egress_read_message(skb, number, generation);
        }
        left = egress_may_leave(number);
        if (left == EGRESS_NOT_LISTED) {
            break;
        }
    }
    const int whole = egress_end_reading(skb, number, left == EGRESS_NOT_LISTED);
    return whole || left == EGRESS_NOT_LISTED ? left : EGRESS_REFUSE;
}

#define EGRESS_SHARED_PAGES 3 /* SKBFL_ZEROCOPY_ENABLE, SKBFL_SHARED_FRAG */

/* Whether its reader may find something else in the packet than was read here: pages of it are a
 * program's or a file's, or one of its bytes is urgent. */
static __noinline int is_unsteady(struct __sk_buff* skb, const struct egress_leg* leg) {
    struct sk_buff* const kern = (void*)skb;
    if (!leg || leg->urgent) {
        return 1;
    }
    const struct skb_shared_info* const shared =
        (const void*)(BPF_CORE_READ(kern, head) + BPF_CORE_READ(kern, end));
    return BPF_CORE_READ(shared, flags) & EGRESS_SHARED_PAGES ||
           (leg->protocol == IPPROTO_UDP && !leg->piece && BPF_CORE_READ(kern, data_len));
}

/* Reads the questions (outward) or answers in a packet. EGRESS_REFUSE: it must not be seen yet, as
 * not all of it could be read; EGRESS_NOT_LISTED. */
__noinline int egress_read_dns(struct __sk_buff* skb, int outward, __u64 generation, __u32 asker) {
    struct egress_leg leg = {.outward = outward != 0};
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (sk && outward && sk->state == EGRESS_SYN_SENT) {
        bpf_sk_storage_delete(&dialogs, sk); /* of the socket's connection before */
    }
    if (!find_leg(skb, &leg) || (sk && sk->type == SOCK_RAW && leg.protocol == IPPROTO_TCP)) {
        return asker ? EGRESS_NOT_LISTED : EGRESS_PASS; /* egress_asks_resolver() */
    }
    if (asker && is_unsteady(skb, &leg)) {
        return EGRESS_NOT_LISTED;
    }
    const __u32 number = egress_enter_room();
    struct egress_room* const room = bpf_map_lookup_elem(&rooms, &number);
    if (!room) {
        return EGRESS_REFUSE;
    }
    room->leg = leg;
    room->asker = asker;
    room->unlisted = 0;
    know_user(skb, number, generation);
    int verdict = egress_read_messages(skb, number, generation);
    verdict = room->unlisted && verdict ? EGRESS_NOT_LISTED : verdict;
    __sync_lock_test_and_set(&room->taken, 0);
    if (verdict == EGRESS_REFUSE) {
        count_dns(EGRESS_DNS_DELAYED);
    }
    return verdict;
}

/* The extension headers of IPv6 below 64: hop-by-hop, routing, fragment, authentication,
 * destination options. */
#define EGRESS_EXTENSIONS (1ULL << 0 | 1ULL << 43 | 1ULL << 44 | 1ULL << 51 | 1ULL << 60)

/* Whether the packet goes to an approved resolver, or hides where the message begins. */
__noinline int egress_asks_resolver(struct __sk_buff* skb) {
    struct egress_leg leg = {.outward = 1};
    if (find_leg(skb, &leg)) {
        return 1;
    }
    const __u32 protocol = leg.protocol;
    return protocol == IPPROTO_UDPLITE ||
           (skb->protocol == bpf_htons(ETH_P_IPV6) &&
            (protocol < 64 ? EGRESS_EXTENSIONS >> protocol & 1 : protocol >= 135));
}

/* Reads the questions in a packet that leaves, and refuses those that are not listed. */
EGRESS_INLINE int read_questions(struct __sk_buff* skb, const struct egress_config* settings,
                                 __u32 job) {
    int asker = 0;
    if ((settings->lists_questions || settings->jobs || job) && egress_asks_resolver(skb)) {
        asker = egress_know_asker(skb);
    }
    if (asker == EGRESS_NO_PIECE) {
        return settings->monitor ? EGRESS_PASS : EGRESS_REFUSE;
    }
    const int verdict = egress_read_dns(skb, 1, settings->generation, asker);
    return asker ? egress_end_asking(skb, asker, verdict) : verdict;
}

/* Whether a packet of the socket may have a message of the DNS that matters. Raw sockets get no
 * grants. */
EGRESS_INLINE int may_have_dns(const struct bpf_sock* sk, const struct egress_config* settings) {
    return settings->reads_names && ((sk->protocol == IPPROTO_UDP && sk->type == SOCK_DGRAM) ||
                                     (sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM));
}

/* The same of one that leaves: raw sockets may ask, too. And what a job left behind in its sockets
 * must not leave when no rules have names any more. */
EGRESS_INLINE int may_ask(const struct bpf_sock* sk, const struct egress_config* settings,
                          __u32 job) {
    return may_have_dns(sk, settings) || (job && sk->type == SOCK_STREAM) ||
           (settings->reads_names && (settings->lists_questions || settings->jobs) &&
            (sk->type == SOCK_RAW || sk->protocol == IPPROTO_UDPLITE));
}

#endif
