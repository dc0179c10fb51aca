/* SipHash-1-3 (Aumasson, Bernstein) of 64-bit words, with a secret key of two. Use BEGIN, WORD for
 * each word and END in one function, as they share variables. */
#ifndef EGRESS_BPF_SIPHASH_H
#define EGRESS_BPF_SIPHASH_H

#define EGRESS_ROTATE(word, by) ((word) << (by) | (word) >> (64 - (by)))
#define EGRESS_SIP_ROUND                                                                           \
    do {                                                                                           \
        a += b;                                                                                    \
        b = EGRESS_ROTATE(b, 13) ^ a;                                                              \
        a = EGRESS_ROTATE(a, 32);                                                                  \
        c += d;                                                                                    \
        d = EGRESS_ROTATE(d, 16) ^ c;                                                              \
        a += d;                                                                                    \
        d = EGRESS_ROTATE(d, 21) ^ a;                                                              \
        c += b;                                                                                    \
        b = EGRESS_ROTATE(b, 17) ^ c;                                                              \
        c = EGRESS_ROTATE(c, 32);                                                                  \
    } while (0)

#define EGRESS_SIP_BEGIN(key)                                                                      \
    __u64 a = (key)[0] ^ 0x736f6d6570736575ULL;                                                    \
    __u64 b = (key)[1] ^ 0x646f72616e646f6dULL;                                                    \
    __u64 c = (key)[0] ^ 0x6c7967656e657261ULL;                                                    \
    __u64 d = (key)[1] ^ 0x7465646279746573ULL

#define EGRESS_SIP_WORD(word)                                                                      \
    do {                                                                                           \
        const __u64 word_ = (word);                                                                \
        d ^= word_;                                                                                \
        EGRESS_SIP_ROUND;                                                                          \
        a ^= word_;                                                                                \
    } while (0)

#define EGRESS_SIP_END                                                                             \
    ({                                                                                             \
        c ^= 0xff;                                                                                 \
        EGRESS_SIP_ROUND;                                                                          \
        EGRESS_SIP_ROUND;                                                                          \
        EGRESS_SIP_ROUND;                                                                          \
        a ^ b ^ c ^ d;                                                                             \
    })

#endif
