/* The maps of the kernel side, and how verdict.h looks up the policy's tables in them.
 *
 * Each table of a policy is the inner map of one slot. The loader fills a new policy into the slot
 * that is not in force; one write of config.generation then switches all tables at once.
 */
#ifndef EGRESS_BPF_MAPS_H
#define EGRESS_BPF_MAPS_H

#include "daemon/bpf/abi.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct egress_config);
} config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 65536); /* the loader sets it to the system's limit of processes */
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, __u32);
    __type(value, struct egress_process);
} processes SEC(".maps");

/* The approved ones. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, EGRESS_MAX_RESOLVERS);
    __type(key, struct egress_resolver);
    __type(value, __u32);
} resolvers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 22);
} events SEC(".maps");

/* Not an LRU map: the counts that it evicts would be lost. If it is full, repeats are not
 * folded. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 16384);
    __type(key, struct egress_fold_key);
    __type(value, struct egress_fold);
} folds SEC(".maps");

/* By egress_loss. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_LOSSES);
    __type(key, __u32);
    __type(value, __u64);
} losses SEC(".maps");

/* Checks by hook. */
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, EGRESS_HOOKS);
    __type(key, __u32);
    __type(value, __u64);
} looks SEC(".maps");

/* Accepted connections do not inherit it: they are not judged. */
struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct egress_socket);
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct egress_writers);
} writers SEC(".maps");

/* Shared by all policies; they outlive the daemon. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_GRANTS_SETS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct egress_grants);
} grants SEC(".maps");

/* Paths of the programs seen, to name ancestors. */
struct egress_name {
    char path[EGRESS_PATH_SIZE];
};
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, struct egress_file);
    __type(value, struct egress_name);
} paths SEC(".maps");

/* clang describes a structure in full only where something points to it; inner maps are not enough.
 */
#define EGRESS_DESCRIBE(name) const struct name* name##_described __attribute__((unused))
EGRESS_DESCRIBE(egress_base);
EGRESS_DESCRIBE(egress_vector);
EGRESS_DESCRIBE(egress_runs);
EGRESS_DESCRIBE(egress_names);
EGRESS_DESCRIBE(egress_prefix6);
EGRESS_DESCRIBE(egress_tree);
EGRESS_DESCRIBE(egress_path_rules);
EGRESS_DESCRIBE(egress_file);
EGRESS_DESCRIBE(egress_key6);
EGRESS_DESCRIBE(egress_id_range);
EGRESS_DESCRIBE(egress_named);
EGRESS_DESCRIBE(egress_key_command);

/* An outer map with one inner map per slot; the loader chooses the inner one's size.
 */
#define EGRESS_TABLE(name, kind, flags, key_type, value_type)                                      \
    struct name##_inner {                                                                          \
        __uint(type, kind);                                                                        \
        __uint(max_entries, 1);                                                                    \
        __uint(map_flags, flags);                                                                  \
        __type(key, key_type);                                                                     \
        __type(value, value_type);                                                                 \
    };                                                                                             \
    struct {                                                                                       \
        __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);                                                  \
        __uint(max_entries, EGRESS_ALL_SLOTS);                                                     \
        __type(key, __u32);                                                                        \
        __array(values, struct name##_inner);                                                      \
    } name SEC(".maps");

/* Always one entry: of a table whose size is fixed, the kernel needs no call to find it. */
EGRESS_TABLE(bases, BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE, __u32, struct egress_base)
EGRESS_TABLES(EGRESS_TABLE)

#define EGRESS_INLINE static __always_inline
/* Loads eight bytes of any alignment at once: the architectures with a JIT compiler can. */
#define EGRESS_LOAD64(from) (*(const __u64*)(from))
#define EGRESS_LOOP(times, step, context) bpf_loop(times, step, context, 0)
#include "daemon/bpf/steps.h" /* after these */

struct egress_view {
    const struct egress_base* base;
    void* vectors; /* of the policy; most checks need several */
    __u64 generation;
    __u32 slot;
};

/* An entry in a table of the view's policy. */
#define EGRESS_FIND(view, table, key)                                                              \
    ({                                                                                             \
        __u32 slot_ = (view)->slot;                                                                \
        void* inner_ = bpf_map_lookup_elem(&table, &slot_);                                        \
        inner_ ? bpf_map_lookup_elem(inner_, key) : (void*)0;                                      \
    })
#define EGRESS_FIND_INDEX(view, table, key)                                                        \
    ({                                                                                             \
        const __u32* found_ = EGRESS_FIND(view, table, key);                                       \
        __u32 index_ = (__u32)egress_zero((view)->slot);                                           \
        if (found_) {                                                                              \
            index_ = *found_;                                                                      \
        }                                                                                          \
        index_;                                                                                    \
    })

EGRESS_INLINE const struct egress_vector* vector_at(const struct egress_view* view, __u32 index) {
    return bpf_map_lookup_elem(view->vectors, &index);
}

EGRESS_INLINE const struct egress_runs* runs_at(const struct egress_view* view, __u32 number) {
    return EGRESS_FIND(view, runs, &number);
}

EGRESS_INLINE const struct egress_names* names_at(const struct egress_view* view, __u32 number) {
    return EGRESS_FIND(view, names, &number);
}

EGRESS_INLINE const struct egress_grants* grants_at(const struct egress_view* view, __u32 number) {
    return bpf_map_lookup_elem(&grants, &number);
}

EGRESS_INLINE __u32 host6(const struct egress_view* view, const __u8* address) {
    struct egress_key6 key; /* 6.1 requires it on the stack */
    __builtin_memcpy(key.address, address, sizeof key.address);
    return EGRESS_FIND_INDEX(view, hosts6, &key);
}

EGRESS_INLINE __u32 prefix6(const struct egress_view* view, const __u8* address) {
    struct egress_prefix6 key = {.bits = 128};
    __builtin_memcpy(key.address, address, sizeof key.address);
    return EGRESS_FIND_INDEX(view, prefixes6, &key);
}

EGRESS_INLINE __u32 uid_rules(const struct egress_view* view, __u32 uid) {
    return EGRESS_FIND_INDEX(view, uids, &uid);
}

EGRESS_INLINE __u32 gid_rules(const struct egress_view* view, __u32 gid) {
    return EGRESS_FIND_INDEX(view, gids, &gid);
}

/* Subordinate ids. */
EGRESS_INLINE __u32 uid_range_rules(const struct egress_view* view, __u32 uid) {
    const struct egress_id_range key = {32, __builtin_bswap32(uid)};
    return EGRESS_FIND_INDEX(view, uid_ranges, &key);
}

EGRESS_INLINE __u32 gid_range_rules(const struct egress_view* view, __u32 gid) {
    const struct egress_id_range key = {32, __builtin_bswap32(gid)};
    return EGRESS_FIND_INDEX(view, gid_ranges, &key);
}

/* The user that a uid counts as: its lender, or itself. The daemon's own counts as root. */
EGRESS_INLINE __u32 user_of(const struct egress_view* view, __u32 uid) {
    const struct egress_id_range key = {32, __builtin_bswap32(uid)};
    const __u32* const lender = EGRESS_FIND(view, lenders, &key);
    return lender ? *lender : uid;
}

EGRESS_INLINE __u32 command_rules(const struct egress_view* view, const char* text) {
    return EGRESS_FIND_INDEX(view, commands, text);
}

EGRESS_INLINE __u32 program_rules(const struct egress_view* view, const struct egress_file* file) {
    return EGRESS_FIND_INDEX(view, programs, file);
}

EGRESS_INLINE __u32 parent_rules(const struct egress_view* view, const struct egress_file* file) {
    return EGRESS_FIND_INDEX(view, parents, file);
}

EGRESS_INLINE __u32 under_rules(const struct egress_view* view, const struct egress_file* file) {
    return EGRESS_FIND_INDEX(view, unders, file);
}

/* The key has 260 bytes, too many for the stack: the caller keeps it in a map. */
EGRESS_INLINE const struct egress_path_rules* tree_rules(const struct egress_view* view,
                                                         const struct egress_tree* path) {
    return EGRESS_FIND(view, trees, path);
}

EGRESS_INLINE void egress_count(void* map, __u32 index) {
    __u64* counter = bpf_map_lookup_elem(map, &index);
    if (counter) {
        ++*counter; /* per CPU; a hook that interrupts another may lose one: see egress_lose() */
    }
}

/* Losses are counted exactly. */
EGRESS_INLINE void egress_lose(__u32 why) {
    __u64* counter = bpf_map_lookup_elem(&losses, &why);
    if (counter) {
        __sync_fetch_and_add(counter, 1);
    }
}

#endif
