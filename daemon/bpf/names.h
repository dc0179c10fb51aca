/* Names of the DNS as numbers: one text for the hooks, the daemon and the tests.
 *
 * A name's hash is chained from its end, so that a name's walk from the last label to the first
 * passes the hashes of all its suffixes: H(root) = 0, H(label.rest) = SipHash(H(rest), label), with
 * the secret of the hooks (egress_config.path_key). A label counts in lower case, with its length
 * in front. Whoever does not know the secret finds no two names with the same hash, so that hashes
 * are compared instead of names.
 *
 * A rule names a name itself, `*.` and a name (one label more) or `**.` and a name (one or more).
 * Each has a key, made of the name's hash and the kind.
 */
#ifndef EGRESS_BPF_NAMES_H
#define EGRESS_BPF_NAMES_H

#include "daemon/bpf/abi.h"
#include "daemon/bpf/siphash.h"
#include "daemon/bpf/steps.h"

#define EGRESS_MAX_LABEL 63
#define EGRESS_MAX_NAME 255   /* bytes on the wire, with the lengths and the root */
#define EGRESS_MAX_LABELS 127 /* that fit */
#define EGRESS_LABEL_ROOM 64  /* bytes that may be read from a label on: its length and itself */

enum egress_pattern {
    EGRESS_PATTERN_EXACT = 0,
    EGRESS_PATTERN_ONE = 1,  /* "*.": exactly one label before it */
    EGRESS_PATTERN_DEEP = 2, /* "**.": one or more */
};

/* A key that no name has: a grant for whatever name the answer was about. */
#define EGRESS_ANY_NAME 1ULL

EGRESS_INLINE __u64 egress_name_key(__u64 hash, __u32 kind) {
    const __u64 key = hash + kind * 0x9e3779b97f4a7c15ULL;
    return key > EGRESS_ANY_NAME ? key : key + 2;
}

#ifndef EGRESS_LOAD64
/* Eight bytes of any alignment. */
EGRESS_INLINE __u64 egress_load64(const __u8* from) {
    __u64 word;
    __builtin_memcpy(&word, from, sizeof word);
    return word;
}
#define EGRESS_LOAD64(from) egress_load64(from)
#endif

#define EGRESS_EACH_BYTE(value) ((value)*0x0101010101010101ULL)

/* Eight ASCII letters in lower case; other bytes stay. */
EGRESS_INLINE __u64 egress_lower(__u64 word) {
    const __u64 low = word & EGRESS_EACH_BYTE(0x7f);
    const __u64 from_a = low + EGRESS_EACH_BYTE(0x80 - 'A');
    const __u64 after_z = low + EGRESS_EACH_BYTE(0x80 - 'Z' - 1);
    return word | (from_a & ~after_z & ~word & EGRESS_EACH_BYTE(0x80)) >> 2;
}

/* The hash of a label's bytes and the rest's hash, in the case that they have or in lower case. */
EGRESS_INLINE __u64 egress_hash_bytes(const __u64* secret, __u64 rest, const __u8* label,
                                      int lower) {
    const __u32 size = (label[0] & EGRESS_MAX_LABEL) + 1;
    EGRESS_SIP_BEGIN(secret);
    EGRESS_SIP_WORD(rest);
    for (__u32 at = 0; at < EGRESS_LABEL_ROOM; at += 8) {
        if (at >= size) {
            break;
        }
        __u64 word = EGRESS_LOAD64(label + at);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        if (size - at < 8) {
            word &= (1ULL << 8 * (size - at)) - 1;
        }
        EGRESS_SIP_WORD(lower ? egress_lower(word) : word);
    }
    return EGRESS_SIP_END;
}

/* The hash of label.rest. `label` begins with its length, 1 to 63; EGRESS_LABEL_ROOM bytes from
 * there on can be read. */
EGRESS_INLINE __u64 egress_hash_label(const __u64* secret, __u64 rest, const __u8* label) {
    return egress_hash_bytes(secret, rest, label, 1);
}

/* Which sets of grants are an address': the lowest bits number the first one, the highest the
 * second. */
EGRESS_INLINE __u64 egress_grants_of(const __u64* secret, const __u8* address) {
    EGRESS_SIP_BEGIN(secret);
    EGRESS_SIP_WORD(EGRESS_LOAD64(address));
    EGRESS_SIP_WORD(EGRESS_LOAD64(address + 8));
    return EGRESS_SIP_END;
}
#define EGRESS_FIRST_SET(hash) ((__u32)(hash) & (EGRESS_GRANTS_SETS - 1))
#define EGRESS_SECOND_SET(hash) ((__u32)((hash) >> 32) & (EGRESS_GRANTS_SETS - 1))

#ifndef __bpf__

/* The hash of a name as people write it, with or without a dot at its end; letters of either case.
 * 0: it is none (a label that is empty or too long, the root, too long as a whole). */
static inline __u64 egress_hash_name(const __u64* secret, const char* text, __u32 size) {
    __u64 hash = 0;
    __u32 end = size && text[size - 1] == '.' ? size - 1 : size;
    if (!end || end > EGRESS_MAX_NAME - 2) {
        return 0;
    }
    for (;;) {
        __u8 label[EGRESS_LABEL_ROOM] = {0};
        __u32 from = end;
        while (from && text[from - 1] != '.') {
            --from;
        }
        if (from == end || end - from > EGRESS_MAX_LABEL) {
            return 0;
        }
        label[0] = (__u8)(end - from);
        __builtin_memcpy(label + 1, text + from, end - from);
        hash = egress_hash_label(secret, hash, label);
        if (!from) {
            return hash;
        }
        end = from - 1;
    }
}

/* How many buckets to begin with for so many names; a power of two. */
static inline __u32 egress_buckets_for(__u32 names) {
    __u32 buckets = 1;
    while (names && buckets < names / (EGRESS_NAMES_WAYS - 1) + 1) {
        buckets *= 2;
    }
    return names ? buckets : 0;
}

/* Puts a key into zeroed buckets, or finds it there. Returns the place of its index; null: there is
 * no room near its bucket, so all must be put into twice as many. */
static inline __u32* egress_put_name(struct egress_names* names, __u32 buckets, __u64 key) {
    for (__u32 step = 0; step < EGRESS_NAMES_STEPS && step < buckets; ++step) {
        struct egress_names* const bucket = &names[((__u32)key + step) & (buckets - 1)];
        for (__u32 i = 0; i < EGRESS_NAMES_WAYS; ++i) {
            if (!bucket->keys[i]) {
                bucket->keys[i] = key;
            }
            if (bucket->keys[i] == key) {
                return &bucket->indexes[i];
            }
        }
    }
    return 0;
}

#endif
#endif
