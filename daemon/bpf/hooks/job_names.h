/* The names in the rules of jobs. A question for one is noted for every process, as a resolver on
 * this host may ask it for the job. All policies share the grants.
 */
#ifndef EGRESS_BPF_JOB_NAMES_H
#define EGRESS_BPF_JOB_NAMES_H

#include "maps.h"

/* By egress_name_key(), or EGRESS_ANY_NAME; the value is 1, perhaps with EGRESS_NAME_... */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, EGRESS_MAX_JOB_NAMES);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u64);
    __type(value, __u32);
} job_names SEC(".maps");

/* Not 0: some job's rules name the key. A separate function: in 6.1 the key would overflow the
 * stack of its callers. */
static __noinline __u32 wished_by_jobs(__u64 key) {
    const __u32* const found = bpf_map_lookup_elem(&job_names, &key);
    return found ? *found : 0;
}

#endif
