/* The verdict over this kernel's maps: maps.h defines the lookups that daemon/bpf/verdict.h
 * needs. */
#ifndef EGRESS_BPF_HOOKS_VERDICT_H
#define EGRESS_BPF_HOOKS_VERDICT_H

#include "maps.h"

__noinline __u32 egress_run_of(const struct egress_runs* runs, __u32 low);
#define EGRESS_SEARCH_RUNS egress_run_of

#include "daemon/bpf/verdict.h" /* after maps.h */

__noinline __u32 egress_run_of(const struct egress_runs* runs, __u32 low) {
    return runs ? egress_search_runs(runs, low) : EGRESS_BROKEN;
}

#endif
