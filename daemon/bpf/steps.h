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

/* number & mask that the compiler cannot drop: the verifier of Linux 6.1 forgets the bounds of two
 * numbers once they are or-ed, and needs the mask. */
EGRESS_INLINE __u32 egress_masked(__u32 number, __u32 mask) {
    __asm__ volatile("" : "+r"(number));
    return number & mask;
}

#endif
