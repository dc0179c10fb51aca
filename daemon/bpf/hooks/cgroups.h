/* The rules that the name of a cgroup selects.
 *
 * A cgroup2 directory cannot get another name or another parent, and its id is never reused. So the
 * hooks compute a cgroup's rules from its name at its first check: even the first process in it is
 * judged by them, whether the daemon knows the cgroup, runs, or not.
 */
#ifndef EGRESS_BPF_CGROUPS_H
#define EGRESS_BPF_CGROUPS_H

#include "container.h"
#include "kernel.h"
#include "maps.h"
#include "scratch.h"
#include "verdict.h"

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, struct egress_cgroup_key);
    __type(value, struct egress_vector);
} cgroup_rules SEC(".maps");

struct egress_ladder {
    const struct egress_view* view;
    struct egress_scratch* room;
};

/* Reads the name of the cgroup and steps to its parent; null: the walk ends here. */
EGRESS_INLINE const struct cgroup* leave(struct egress_ladder* ladder) {
    struct egress_scratch* const room = ladder->room;
    const struct cgroup* const cgroup = (const struct cgroup*)room->ascent.cgroup;
    const struct cgroup* const outer =
        (const struct cgroup*)BPF_CORE_READ(cgroup, self.parent); /* its first member */
    if (!outer || BPF_CORE_READ(cgroup, kn, id) == host_cgroup) {
        room->ascent.whole = 1;
        return 0;
    }
    __builtin_memset(room->name, 0, sizeof room->name);
    const long size =
        bpf_probe_read_kernel_str(room->name, sizeof room->name, BPF_CORE_READ(cgroup, kn, name));
    if (size < 2) {
        return 0;
    }
    ladder->room->ascent.size = (__u32)size;
    ladder->room->ascent.cgroup = (__u64)outer;
    return outer;
}

static long measure_cgroup(__u32 step, struct egress_ladder* ladder) {
    if (!leave(ladder)) {
        return 1;
    }
    ladder->room->ascent.length += ladder->room->ascent.size;
    return 0;
}

/* Writes the path; of a long one, the beginning. */
static long write_cgroup(__u32 step, struct egress_ladder* ladder) {
    if (!leave(ladder)) {
        return 1;
    }
    struct egress_scratch* const room = ladder->room;
    ladder->room->ascent.at -= ladder->room->ascent.size;
    if (ladder->room->ascent.at < EGRESS_PATH_SIZE) {
        const __u32 at = egress_masked(ladder->room->ascent.at, EGRESS_TEXT_SIZE - 1);
        room->text[at] = '/';
        bpf_probe_read_kernel(&room->text[at + 1],
                              egress_masked(ladder->room->ascent.size - 1, EGRESS_TEXT_SIZE - 1),
                              room->name);
    }
    return 0;
}

/* Not 0 if a user other than root may create cgroups inside this one, and so choose their names. */
EGRESS_INLINE __u32 owner_of(const struct cgroup* cgroup) {
    struct kernfs_iattrs* const owner = BPF_CORE_READ(cgroup, kn, iattr);
    const __u32 mode = BPF_CORE_READ(cgroup, kn, mode);
    const __u32 uid = BPF_CORE_READ(owner, ia_uid.val); /* 0: there is none */
    const __u32 gid = BPF_CORE_READ(owner, ia_gid.val);
    return uid | (mode & 0002) | (mode & 0020 ? gid : 0);
}

/* Adds the rules of the unit that has the cgroup's name. */
static long add_unit(__u32 step, struct egress_ladder* ladder) {
    const struct cgroup* const outer = leave(ladder);
    if (!outer) {
        return 1;
    }
    struct egress_tree* const key = &ladder->room->key;
    __builtin_memcpy(key->path, ladder->room->name, sizeof key->path);
    key->device = EGRESS_UNITS;
    key->bits = EGRESS_DEVICE_BITS + ladder->room->ascent.size * 8;
    const struct egress_path_rules* const found = tree_rules(ladder->view, key);
    if (!found) {
        return 0;
    }
    const __u64 others = -(__u64)(owner_of(outer) != 0);
    const __u32 index = (found->uncertain & (__u32)others) | (found->rules & ~(__u32)others);
    const struct egress_vector* const rules = vector_at(ladder->view, index);
    if (!rules) {
        ladder->room->ascent.cgroup = 0;
        return 1; /* not whole */
    }
    egress_add(&ladder->room->vector, rules);
    return 0;
}

EGRESS_INLINE void begin_walk(struct egress_ladder* ladder, __u64 address) {
    ladder->room->ascent.cgroup = address;
    ladder->room->ascent.whole = 0;
}

/* Writes the path of the cgroup, ending in '/', to the key; 0: it is unknown. */
EGRESS_INLINE int take_cgroup(struct egress_ladder* ladder, __u64 address) {
    struct egress_tree* const key = &ladder->room->key;
    begin_walk(ladder, address);
    ladder->room->ascent.length = 0;
    bpf_loop(EGRESS_MAX_NESTING, measure_cgroup, ladder, 0);
    const __u32 length = ladder->room->ascent.length;
    if (!ladder->room->ascent.whole) {
        return 0;
    }
    begin_walk(ladder, address);
    ladder->room->ascent.at = length;
    bpf_loop(EGRESS_MAX_NESTING, write_cgroup, ladder, 0);
    if (!ladder->room->ascent.whole) {
        return 0;
    }
    const __u32 known = length < EGRESS_PATH_SIZE - 1 ? length : EGRESS_PATH_SIZE - 1;
    __builtin_memset(key->path, 0, sizeof key->path);
    key->device = EGRESS_CGROUPS;
    bpf_probe_read_kernel(key->path, egress_masked(known, EGRESS_TEXT_SIZE - 1),
                          ladder->room->text);
    key->path[egress_masked(known, EGRESS_TEXT_SIZE - 1)] = '/';
    /* The last name of a truncated path may be incomplete. */
    key->bits = EGRESS_DEVICE_BITS + (known + (known == length)) * 8;
    return 1;
}

EGRESS_INLINE int find_rules(struct egress_ladder* ladder, __u64 address) {
    struct egress_scratch* const room = ladder->room;
    if (!take_cgroup(ladder, address)) {
        return 0;
    }
    const struct egress_path_rules* const found = tree_rules(ladder->view, &room->key);
    const struct egress_vector* const rules = vector_at(ladder->view, found ? found->rules : 0);
    if (!rules) {
        return 0;
    }
    room->vector = ladder->view->base->any_cgroup;
    egress_add(&room->vector, rules);
    if (!ladder->view->base->has_units) {
        return 1;
    }
    begin_walk(ladder, address);
    bpf_loop(EGRESS_MAX_NESTING, add_unit, ladder, 0);
    return ladder->room->ascent.whole != 0;
}

/* Computes the rules of the cgroup at this address and stores them; on failure it stores none. The
 * verifier checks it once for all callers. */
__noinline int egress_find_cgroup(__u64 address, __u64 id, __u64 generation) {
    const __u32 zero = 0;
    const struct egress_cgroup_key kept = {id, generation};
    struct egress_view view = {};
    view.generation = generation;
    view.slot = EGRESS_SLOT_OF(generation);
    view.base = EGRESS_FIND(&view, bases, &zero);
    view.vectors = bpf_map_lookup_elem(&vectors, &view.slot);
    struct egress_scratch* const room = claim();
    if (!room) {
        return 0;
    }
    struct egress_ladder ladder = {
        .view = &view,
        .room = room,
    };
    /* Else the cgroup is gone, and another one is at its address. */
    const int is_there = BPF_CORE_READ((const struct cgroup*)address, kn, id) == id;
    if (view.base && view.vectors && is_there && find_rules(&ladder, address)) {
        bpf_map_update_elem(&cgroup_rules, &kept, &room->vector, BPF_ANY);
    }
    release(room);
    return 0;
}

#endif
