/* Families whose packets a kernel socket sends for all users of a host together, so that no packet
 * shows its user. The hook judges a socket by its kind when it is created, and allows it only if a
 * rule allows that kind everywhere. The cgroup hook for new sockets sees only the internet
 * families, so this one is an LSM hook.
 */
#ifndef EGRESS_BPF_FAMILY_H
#define EGRESS_BPF_FAMILY_H

#include "decide.h"
#include "flow.h"
#include "judge.h"
#include "writer.h"

#define AF_RDS 21
#define AF_TIPC 30
#define AF_RXRPC 33
#define AF_SMC 43

SEC("?lsm_cgroup/socket_create")
int BPF_PROG(egress_family, int family, int type, int protocol, int of_kernel) {
    const __u32 zero = 0;
    struct egress_case found = {.hook = EGRESS_HOOK_CREATE, .creates = EGRESS_CREATES_CLOSED};
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (of_kernel || !settings ||
        (family != AF_RDS && family != AF_TIPC && family != AF_RXRPC && family != AF_SMC)) {
        return EGRESS_PASS;
    }
    if (!begin_case(&found, settings)) {
        return EGRESS_PASS;
    }
    found.flow.type = type;
    egress_place(&found);
    egress_count(&looks, EGRESS_HOOK_CREATE);
    decide_fully(&found);
    if (found.post) {
        egress_tell(&found);
    }
    return is_refused(&found) ? EGRESS_REFUSE : EGRESS_PASS;
}

#endif
