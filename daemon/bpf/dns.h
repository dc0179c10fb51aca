/* Reads messages of the DNS (RFC 1035): one text for the hooks, the tests and the fuzzer.
 *
 * Two steps: egress_dns_question() reads header and question; egress_dns_answers() the answers, and
 * hands over each address of the question's type whose owner is the name asked for or is reached
 * from it by CNAMEs. A message with anything wrong up to its last answer hands over nothing. What
 * follows the answers is not read.
 *
 * The file that includes this one first defines what becomes of an address:
 *
 *   egress_dns_take(context, address, ttl)     address: 16 bytes, IPv4 mapped; ttl: seconds
 */
#ifndef EGRESS_BPF_DNS_H
#define EGRESS_BPF_DNS_H

#include "daemon/bpf/names.h"

#ifndef EGRESS_HASH_BYTES
#define EGRESS_HASH_BYTES egress_hash_bytes
#endif

#define EGRESS_DNS_HEADER 12
#define EGRESS_DNS_A 1
#define EGRESS_DNS_CNAME 5
#define EGRESS_DNS_AAAA 28
#define EGRESS_DNS_ANY 255
#define EGRESS_DNS_IN 1
#define EGRESS_DNS_RESPONSE 0x8000 /* flags of the header */
#define EGRESS_DNS_OPCODE 0x7800
#define EGRESS_DNS_CUT 0x0200
#define EGRESS_DNS_ERROR 0x000f
#define EGRESS_DNS_STEPS 256 /* labels and pointers of one name */
#define EGRESS_DNS_BYTES 65536

struct egress_dns_alias {
    __u64 owner;
    __u64 target;
};

/* A message and what has been read of it. Everything is in memory and nothing on the stack: the
 * verifier takes what it reads here for any number. */
struct egress_dns_message {
    __u32 length; /* of the message, less than EGRESS_DNS_BYTES */
    __u32 at;     /* next byte to be read */
    __u32 wrong;  /* enum egress_dns: why it cannot be read; 0: nothing is wrong */
    __u32 flags;
    __u32 id;
    __u32 type; /* of the question */
    __u32 answers;
    __u32 pass; /* over the answers: 0 looks for CNAMEs, 1 for addresses */
    __u64 question;
    __u64 exact; /* hash of the question with its case, for 0x20 */
    __u64 hash;  /* of the name read last */
    __u32 end;   /* of that name: the byte behind it; 0: not known yet */
    __u32 size;  /* bytes of its labels so far */
    __u32 labels;
    __u32 before;  /* a pointer leads before this byte */
    __u32 pointed; /* where the pointer that a name consisted of led to, the last time; 0 */
    __u32 zero;
    __u64 pointed_hash;
    __u32 chained; /* entries of `chain` */
    __u32 aliased; /* entries of `aliases` */
    __u64 secret[2];
    __u64 chain[EGRESS_DNS_CNAMES + 1]; /* the name asked for, and those that CNAMEs lead to */
    struct egress_dns_alias aliases[EGRESS_DNS_CNAMES];
    __u16 offsets[128];  /* of the labels of the name read last */
    __u64 suffixes[128]; /* of the question: the hash from each label on */
    __u8 bytes[EGRESS_DNS_BYTES + EGRESS_LABEL_ROOM];
};

EGRESS_INLINE __u32 egress_dns_byte(const struct egress_dns_message* m, __u32 at) {
    return m->bytes[egress_masked(at, EGRESS_DNS_BYTES - 1)];
}

EGRESS_INLINE __u32 egress_dns_two(const struct egress_dns_message* m, __u32 at) {
    return egress_dns_byte(m, at) << 8 | egress_dns_byte(m, at + 1);
}

/* Takes one label or pointer of a name; not 0: the name ends, or is wrong. */
static long egress_dns_label(__u32 number, struct egress_dns_message* const* context) {
    struct egress_dns_message* const m = *context;
    const __u32 at = m->at;
    const __u32 first = egress_dns_byte(m, at);
    const __u32 second = egress_dns_byte(m, at + 1);
    const __u32 labels = m->labels;
    if (number == EGRESS_DNS_STEPS - 1 || at >= m->length) {
        m->wrong = EGRESS_DNS_UNREADABLE;
        return 1;
    }
    if (!first) {
        m->end = m->end ? m->end : at + 1;
        return 1;
    }
    if (first >= 0xc0) {
        const __u32 target = (first & 0x3f) << 8 | second;
        /* Always further back, so that no pointers form a circle. */
        if (at + 1 >= m->length || target >= m->before || target < EGRESS_DNS_HEADER) {
            m->wrong = EGRESS_DNS_UNREADABLE;
            return 1;
        }
        m->end = m->end ? m->end : at + 2;
        m->before = target;
        m->at = target;
        return 0;
    }
    m->size += first + 1;
    if (first > EGRESS_MAX_LABEL || m->size > EGRESS_MAX_NAME - 1 || at + 1 + first >= m->length ||
        labels >= EGRESS_MAX_LABELS) {
        m->wrong = EGRESS_DNS_UNREADABLE;
        return 1;
    }
    m->offsets[egress_masked(labels, 127)] = at;
    m->labels = labels + 1;
    m->at = at + 1 + first;
    return 0;
}

/* Hashes the next label, from the last on. */
static long egress_dns_hash(__u32 number, struct egress_dns_message* const* context) {
    struct egress_dns_message* const m = *context;
    const __u32 labels = m->labels;
    if (number >= labels) {
        return 1;
    }
    const __u32 which = egress_masked(labels - 1 - number, 127);
    const __u8* const label = &m->bytes[egress_masked(m->offsets[which], EGRESS_DNS_BYTES - 1)];
    m->hash = EGRESS_HASH_BYTES(m->secret, m->hash, label, 1);
    return 0;
}

/* The same for the question, whose suffixes and case count, too. */
static long egress_dns_hash_question(__u32 number, struct egress_dns_message* const* context) {
    struct egress_dns_message* const m = *context;
    const __u32 labels = m->labels;
    if (number >= labels) {
        return 1;
    }
    const __u32 which = egress_masked(labels - 1 - number, 127);
    const __u8* const label = &m->bytes[egress_masked(m->offsets[which], EGRESS_DNS_BYTES - 1)];
    m->exact = EGRESS_HASH_BYTES(m->secret, m->exact, label, 0);
    m->hash = EGRESS_HASH_BYTES(m->secret, m->hash, label, 1);
    m->suffixes[which] = m->hash;
    return 0;
}

/* Reads the labels of the name at `at`, which then is the byte behind it. */
EGRESS_INLINE void egress_dns_labels(struct egress_dns_message* m) {
    struct egress_dns_message* context = m;
    m->before = m->at;
    m->end = 0;
    m->size = 0;
    m->labels = 0;
    m->hash = 0;
    EGRESS_LOOP(EGRESS_DNS_STEPS, egress_dns_label, &context);
    m->at = m->end;
}

/* Reads the name at `at` and its hash. Most names of answers are one pointer, always the same. */
EGRESS_INLINE void egress_dns_name(struct egress_dns_message* m) {
    struct egress_dns_message* context = m;
    const __u32 at = m->at;
    const __u32 first = egress_dns_byte(m, at);
    const __u32 target = (first & 0x3f) << 8 | egress_dns_byte(m, at + 1);
    if (first >= 0xc0 && target == m->pointed && m->pointed && at + 1 < m->length && target < at) {
        m->hash = m->pointed_hash;
        m->at = at + 2;
        return;
    }
    egress_dns_labels(m);
    if (!m->wrong) {
        EGRESS_LOOP(EGRESS_MAX_LABELS, egress_dns_hash, &context);
        if (first >= 0xc0) {
            m->pointed = target;
            m->pointed_hash = m->hash;
        }
    }
}

/* Reads header and question; `length`, `secret` and `bytes` are the caller's. Returns 0 or why it
 * cannot be read. A question for the root has the hash 0. */
EGRESS_INLINE __u32 egress_dns_question(struct egress_dns_message* m) {
    struct egress_dns_message* context = m;
    m->wrong = 0;
    m->pointed = 0;
    m->exact = 0;
    m->question = 0;
    m->chained = 0;
    m->aliased = 0;
    if (m->length < EGRESS_DNS_HEADER || m->length >= EGRESS_DNS_BYTES) {
        return EGRESS_DNS_UNREADABLE;
    }
    m->id = egress_dns_two(m, 0);
    m->flags = egress_dns_two(m, 2);
    m->answers = egress_dns_two(m, 6);
    if (m->flags & EGRESS_DNS_OPCODE) {
        return EGRESS_DNS_UNREADABLE;
    }
    if (egress_dns_two(m, 4) != 1) {
        return EGRESS_DNS_QUESTIONS;
    }
    m->at = EGRESS_DNS_HEADER;
    egress_dns_labels(m);
    if (m->wrong || m->at + 4 > m->length) {
        return EGRESS_DNS_UNREADABLE;
    }
    EGRESS_LOOP(EGRESS_MAX_LABELS, egress_dns_hash_question, &context);
    m->question = m->hash;
    m->type = egress_dns_two(m, m->at);
    if (egress_dns_two(m, m->at + 2) != EGRESS_DNS_IN) {
        m->type = 0;
    }
    m->at += 4;
    return 0;
}

/* Whether answers to the question can have addresses. */
EGRESS_INLINE int egress_dns_asks_address(const struct egress_dns_message* m) {
    return m->question &&
           (m->type == EGRESS_DNS_A || m->type == EGRESS_DNS_AAAA || m->type == EGRESS_DNS_ANY);
}

EGRESS_INLINE int egress_dns_reached(const struct egress_dns_message* m, __u64 name) {
    for (__u32 i = 0; i <= EGRESS_DNS_CNAMES; ++i) {
        if (i >= m->chained) {
            break;
        }
        if (m->chain[i] == name) {
            return 1;
        }
    }
    return 0;
}

struct egress_dns_reading {
    struct egress_dns_message* m;
    void* taker; /* of addresses */
};

EGRESS_INLINE void egress_dns_hand_over(struct egress_dns_reading* reading, __u32 at, __u32 v4) {
    struct egress_dns_message* const m = reading->m;
    __u64 address[2] = {0, 0};
    const __u8* const bytes = &m->bytes[egress_masked(at, EGRESS_DNS_BYTES - 1)];
    __u32 ttl = egress_dns_two(m, at - 6) << 16 | egress_dns_two(m, at - 4);
    if (v4) {
        __u8* const to = (__u8*)address;
        to[10] = 0xff;
        to[11] = 0xff;
        __builtin_memcpy(to + 12, bytes, 4);
    } else {
        __builtin_memcpy(address, bytes, 16);
    }
    ttl = ttl >> 31 ? 0 : ttl; /* RFC 2181, 8 */
    egress_dns_take(reading->taker, (const __u8*)address, ttl);
}

/* Reads one record. */
static long egress_dns_record(__u32 number, struct egress_dns_reading* reading) {
    struct egress_dns_message* const m = reading->m;
    if (number >= m->answers) {
        return 1;
    }
    egress_dns_name(m);
    const __u32 at = m->at + 10;
    if (m->wrong || at > m->length) {
        m->wrong = EGRESS_DNS_UNREADABLE;
        return 1;
    }
    const __u64 owner = m->hash;
    const __u32 type = egress_dns_two(m, at - 10);
    const __u32 kind = egress_dns_two(m, at - 8) == EGRESS_DNS_IN ? type : 0;
    const __u32 size = egress_dns_two(m, at - 2);
    if (at + size > m->length || (kind == EGRESS_DNS_A && size != 4) ||
        (kind == EGRESS_DNS_AAAA && size != 16)) {
        m->wrong = EGRESS_DNS_UNREADABLE;
        return 1;
    }
    m->at = at;
    if (kind == EGRESS_DNS_CNAME && !m->pass) {
        const __u32 used = m->aliased;
        egress_dns_name(m);
        if (m->wrong || m->at != at + size || used >= EGRESS_DNS_CNAMES) {
            m->wrong = used >= EGRESS_DNS_CNAMES ? EGRESS_DNS_CHAIN : EGRESS_DNS_UNREADABLE;
            return 1;
        }
        struct egress_dns_alias* const alias =
            &m->aliases[egress_masked(used, EGRESS_DNS_CNAMES - 1)];
        alias->owner = owner;
        alias->target = m->hash;
        m->aliased = used + 1;
    }
    if (m->pass && (kind == EGRESS_DNS_A || kind == EGRESS_DNS_AAAA) &&
        (kind == m->type || m->type == EGRESS_DNS_ANY) && egress_dns_reached(m, owner)) {
        egress_dns_hand_over(reading, at, kind == EGRESS_DNS_A);
    }
    m->at = at + size;
    return 0;
}

/* Follows one CNAME; not 0: there is none from the name reached last, or its target is known. */
static long egress_dns_follow(__u32 number, struct egress_dns_message* const* context) {
    struct egress_dns_message* const m = *context;
    const __u32 chained = m->chained;
    (void)number;
    if (!chained || chained > EGRESS_DNS_CNAMES) {
        return 1;
    }
    const __u64 name = m->chain[egress_masked(chained - 1, EGRESS_DNS_CNAMES - 1)];
    __u64 next = 0;
    for (__u32 i = 0; i < EGRESS_DNS_CNAMES; ++i) {
        if (i >= m->aliased) {
            break;
        }
        if (m->aliases[i].owner == name) {
            next = m->aliases[i].target;
            break;
        }
    }
    if (!next || egress_dns_reached(m, next)) {
        return 1;
    }
    m->chain[chained] = next;
    m->chained = chained + 1;
    return 0;
}

/* Reads the answers of a message whose question has been read. Returns 0 or why they cannot be
 * read; then no address has been handed over. */
EGRESS_INLINE __u32 egress_dns_answers(struct egress_dns_message* m, void* taker) {
    struct egress_dns_reading reading = {m, taker};
    struct egress_dns_message* context = m;
    const __u32 from = m->at;
    if (m->flags & EGRESS_DNS_ERROR) {
        return EGRESS_DNS_NEGATIVE;
    }
    m->pass = 0;
    EGRESS_LOOP(m->answers, egress_dns_record, &reading);
    if (m->wrong) {
        return m->wrong;
    }
    m->chain[0] = m->question;
    m->chained = 1;
    EGRESS_LOOP(EGRESS_DNS_CNAMES, egress_dns_follow, &context);
    m->at = from;
    m->pass = 1;
    EGRESS_LOOP(m->answers, egress_dns_record, &reading);
    return 0;
}

#endif
