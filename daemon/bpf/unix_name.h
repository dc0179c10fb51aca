/* Sockets of AF_UNIX among a policy's addresses. The table of IPv6 has them under a prefix of their
 * own, by a secret hash of their name. Their type keeps both worlds apart: no socket of IP has it,
 * and in its row of egress_base.protocols are the lines of AF_UNIX alone.
 */
#ifndef EGRESS_BPF_UNIX_NAME_H
#define EGRESS_BPF_UNIX_NAME_H

#include "abi.h"
#include "siphash.h"
#include "steps.h"

#define EGRESS_TYPE_UNIX 7      /* in egress_flow; `protocol` is then the type */
#define EGRESS_UNIX_PREFIX 0xff /* the second byte; the first is 0 */
#define EGRESS_UNIX_PREFIX_BITS 16

/* The key is secret, so that nobody can choose two names with the same hash. */
EGRESS_INLINE __u64 egress_unix_hash(const __u64* key, const struct egress_unix_name* name) {
    EGRESS_SIP_BEGIN(key);
    const __u32* const words = &name->length;
    for (int i = 0; i + 1 < (int)(sizeof *name / 4); i += 2) {
        EGRESS_SIP_WORD(words[i] | (__u64)words[i + 1] << 32);
    }
    return EGRESS_SIP_END;
}

/* `proven`: the name means to the process what it means to the host; else no line names it. */
EGRESS_INLINE void egress_put_unix(__u8* address, __u64 hash, int proven) {
    __builtin_memset(address, 0, 8);
    address[1] = EGRESS_UNIX_PREFIX;
    address[2] = !proven;
    __builtin_memcpy(address + 8, &hash, sizeof hash);
}

#endif
