/* The verdict over this kernel's maps: maps.h defines what daemon/bpf/verdict.h looks tables up
 * with. */
#ifndef EGRESS_BPF_HOOKS_VERDICT_H
#define EGRESS_BPF_HOOKS_VERDICT_H

#include "maps.h"

#include "daemon/bpf/verdict.h" /* after maps.h */

#endif
