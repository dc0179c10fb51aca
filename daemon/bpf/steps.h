/* What code for both compilers is made of: no plain loops, as the verifier would follow each round
 * of them. */
#ifndef EGRESS_BPF_STEPS_H
#define EGRESS_BPF_STEPS_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#ifndef EGRESS_INLINE
#define EGRESS_INLINE static inline __attribute__((always_inline))
#endif

#ifdef __clang__
#define EGRESS_UNROLL _Pragma("unroll")
#else
#define EGRESS_UNROLL
#endif

#ifndef EGRESS_LOOP
/* Calls step(number, context) until it returns non-zero. */
#define EGRESS_LOOP(times, step, context)                                                          \
    do {                                                                                           \
        for (__u32 number_ = 0; number_ < (times) && !step(number_, context); ++number_) {         \
        }                                                                                          \
    } while (0)
#endif

/* Returns 0 in a way that neither the compiler nor the verifier can see; `number` is any value
 * unknown to both. Before 6.7 the verifier follows the step of a bpf_loop only once, with the
 * values from before the loop, and removes the branches that this round does not take: a variable
 * that begins as 0 must be unknown to it. It also takes what a step has written for the value of an
 * earlier state, so a value compared after the loop must be unknown, too. And where a branch sets a
 * number, one that was unknown before makes both ways alike, so that the verifier goes on along one
 * of them only. */
EGRESS_INLINE __u64 egress_zero(__u64 number) {
    __u64 same = number;
    __asm__ volatile("" : "+r"(same));
    return number - same;
}

/* number & mask that the compiler cannot drop: the verifier of Linux 6.1 forgets the bounds of two
 * numbers once they are or-ed, and needs the mask. */
EGRESS_INLINE __u32 egress_masked(__u32 number, __u32 mask) {
    __asm__ volatile("" : "+r"(number));
    return number & mask;
}

#endif
