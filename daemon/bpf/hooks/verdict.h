/* The verdict over this kernel's maps: maps.h defines the lookups that daemon/bpf/verdict.h
 * needs. */
#ifndef EGRESS_BPF_HOOKS_VERDICT_H
#define EGRESS_BPF_HOOKS_VERDICT_H

#include "maps.h"

#include "daemon/bpf/verdict.h" /* after maps.h */

#endif
