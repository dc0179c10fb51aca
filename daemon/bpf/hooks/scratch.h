/* Memory for what does not fit on a program's stack.
 *
 * Another program may interrupt one on the same CPU (a packet arrives during an exec; a sweep or a
 * connect is preempted), so each claims its own piece. If all are taken, claim() returns null and
 * the caller falls back to the strictest verdict.
 */
#ifndef EGRESS_BPF_SCRATCH_H
#define EGRESS_BPF_SCRATCH_H

#include "maps.h"
#include "verdict.h"

#define EGRESS_TEXT_SIZE 256 /* buffer of a path: EGRESS_PATH_SIZE, and room to mask */
#define EGRESS_SCRATCHES 8   /* per CPU: two for a sweep, the rest for what interrupts it */

/* A walk over cgroups. It is in the map and not on the stack because the verifier takes a value
 * read from a map for any number, and so has seen all of a loop after one round. */
struct egress_ascent {
    __u64 cgroup; /* address */
    __u32 size;   /* of the name in the scratch, with its terminator */
    __u32 length;
    __u32 at;
    __u32 whole;
};

/* What a process may ask resolvers for: listed.h. */
struct egress_asker {
    struct egress_vector rules[2]; /* of the host, and of its job */
    __u64 generations[2];          /* of their policies; 0: it lists no questions */
    __u64 key;                     /* of a name that was refused; 0: unknown */
};

struct egress_scratch {
    __u32 taken;
    __u32 number; /* its key; 0 while it has never been claimed */
    struct egress_ascent ascent;
    /* Twice the size, so that the verifier can prove each write of a component in bounds. */
    char text[2 * EGRESS_TEXT_SIZE];
    char name[EGRESS_TEXT_SIZE];
    struct egress_name path;
    struct egress_tree key;
    struct egress_vector vector;
    struct egress_named named;
    struct egress_asker asker;
    struct egress_process process;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_SCRATCHES + 1); /* from 1 on */
    __type(key, __u32);
    __type(value, struct egress_scratch);
} scratch SEC(".maps");

/* What names add to the check of the piece's owner, by its number; 0: no names, filled in by the
 * daemon before anything is attached. By itself, as pointers into one map are one path for the
 * verifier. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_SCRATCHES + 1);
    __type(key, __u32);
    __type(value, struct egress_naming);
} namings SEC(".maps");

EGRESS_INLINE struct egress_scratch* claim(void) {
    for (__u32 i = 1; i <= EGRESS_SCRATCHES; ++i) {
        const __u32 number = i;
        struct egress_scratch* piece = bpf_map_lookup_elem(&scratch, &number);
        if (piece && !__sync_lock_test_and_set(&piece->taken, 1)) {
            piece->number = number;
            return piece;
        }
    }
    return 0;
}

EGRESS_INLINE void release(struct egress_scratch* piece) {
    __sync_lock_test_and_set(&piece->taken, 0);
}

#endif
