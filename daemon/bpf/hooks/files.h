/* Identity of a file: its numbers, and its place inside its file system.
 *
 * To find a place, walk along the directory entries up to the root of the super block. No mount
 * namespace changes it, so a process cannot forge it with mounts of its own. The path that exec
 * recorded, below the process' root, is for people and for rules about containers.
 */
#ifndef EGRESS_BPF_FILES_H
#define EGRESS_BPF_FILES_H

#include "container.h"
#include "daemon/bpf/siphash.h"
#include "kernel.h"
#include "maps.h"
#include "scratch.h"
#include "verdict.h"

#define EGRESS_MAX_DEPTH 4096      /* directories between a file and the root; deeper: unknown */
#define EGRESS_MAX_MOUNTED 320     /* the same for the recorded path, with mounts */
#define EGRESS_MODE_PATH (1 << 14) /* FMODE_PATH: opened with O_PATH */
#define EGRESS_BTRFS 0x9123683e
#define EGRESS_OVERLAY 0x794c7630

/* The fields of a directory entry that a walk needs. */
struct egress_entry {
    __u64 parent;
    __u32 hash;
    __u32 length;
    const unsigned char* name;
};

/* One read if the kernel has the fields in this order: such reads are most of the cost at exec. */
EGRESS_INLINE void read_entry(struct egress_entry* entry, const struct dentry* dentry) {
    const __u32 parent = bpf_core_field_offset(struct dentry, d_parent);
    if (bpf_core_field_offset(struct dentry, d_name) == parent + 8 &&
        bpf_core_field_offset(struct qstr, len) == 4 &&
        bpf_core_field_offset(struct qstr, name) == 8) {
        bpf_probe_read_kernel(entry, sizeof *entry, (const void*)dentry + parent);
        return;
    }
    entry->parent = (__u64)BPF_CORE_READ(dentry, d_parent);
    entry->length = BPF_CORE_READ(dentry, d_name.len);
    entry->name = BPF_CORE_READ(dentry, d_name.name);
}

/* Numbers only: before 6.7 the verifier follows a loop once and takes the values that it saw for
 * constant. */
struct egress_climb_up {
    __u64 dentry;
    __u64 super_root;
    __u64 mount_root;
    char* text; /* null: measure the length */
    __u32 length;
    __u32 at; /* where the previous component begins */
    __u32 whole;
};

/* One directory further up; not 0: done. Writes each component at its place in the path; of a long
 * path it keeps the beginning. */
static long climb_up(__u32 step, struct egress_climb_up* walk) {
    struct egress_entry entry;
    read_entry(&entry, (const struct dentry*)walk->dentry);
    if (walk->dentry == walk->super_root || entry.parent == walk->dentry) {
        walk->whole = walk->dentry == walk->super_root || walk->dentry == walk->mount_root;
        return 1;
    }
    const __u32 length = entry.length;
    if (length >= EGRESS_TEXT_SIZE) {
        return 1;
    }
    if (walk->text) {
        walk->at -= length + 1;
        if (walk->at < EGRESS_PATH_SIZE) {
            const __u32 at = egress_masked(walk->at, EGRESS_TEXT_SIZE - 1);
            walk->text[at] = '/';
            bpf_probe_read_kernel(&walk->text[at + 1], egress_masked(length, EGRESS_TEXT_SIZE - 1),
                                  entry.name);
        }
    } else {
        walk->length += length + 1;
    }
    walk->dentry = entry.parent;
    return 0;
}

/* The hash of a place. The key is secret, so a user cannot search for two
 * paths with the same hash. */
static __noinline __u64 hash_of_place(const struct egress_tree* place) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!settings || !place) {
        return EGRESS_NO_PATH;
    }
    EGRESS_SIP_BEGIN(settings->path_key);
    const __u32* const words = &place->bits;
    for (int i = 0; i + 1 < (int)(sizeof *place / 4); i += 2) {
        EGRESS_SIP_WORD(words[i] | (__u64)words[i + 1] << 32);
    }
    const __u64 hash = EGRESS_SIP_END;
    return hash == EGRESS_NO_PATH ? 0 : hash;
}

/* Writes the place of a file; returns the flags of what is unknown. */
EGRESS_INLINE __u32 take_place(struct egress_tree* place, struct file* file,
                               struct super_block* super, __u32 device, __u64 number) {
    struct dentry* const dentry = BPF_CORE_READ(file, f_path.dentry);
    struct egress_climb_up walk = {
        .dentry = (__u64)dentry,
        .super_root = (__u64)BPF_CORE_READ(super, s_root),
        .mount_root = (__u64)BPF_CORE_READ(file, f_path.mnt, mnt_root),
        .length = (__u32)egress_zero(number),
        .whole = (__u32)egress_zero(number),
    };
    const __u64 first = walk.dentry;
    const __u32 deleted = BPF_CORE_READ(dentry, d_hash.pprev) == 0 ? EGRESS_PROCESS_DELETED : 0;
    __builtin_memset(place->path, 0, sizeof place->path);
    place->device = device;
    place->bits = EGRESS_DEVICE_BITS;
    bpf_loop(EGRESS_MAX_DEPTH, climb_up, &walk, 0);
    const __u32 length = walk.length + (__u32)egress_zero(number);
    struct egress_scratch* const room = claim();
    if (!walk.whole || !length || !room) {
        if (room) {
            release(room);
        }
        return deleted | EGRESS_PROCESS_LOST_PLACE;
    }
    walk.dentry = first;
    walk.text = room->text;
    walk.at = length;
    walk.whole = (__u32)egress_zero(number);
    bpf_loop(EGRESS_MAX_DEPTH, climb_up, &walk, 0);
    const __u32 known = length < EGRESS_PATH_SIZE ? length : EGRESS_PATH_SIZE;
    bpf_probe_read_kernel(place->path, egress_masked(known, EGRESS_TEXT_SIZE - 1), room->text);
    release(room);
    /* Not 0: a directory was renamed meanwhile. */
    if (!walk.whole || walk.at + (__u32)egress_zero(number)) {
        __builtin_memset(place->path, 0, sizeof place->path);
        return deleted | EGRESS_PROCESS_LOST_PLACE;
    }
    place->bits += (length < EGRESS_PATH_SIZE ? length + 1 : EGRESS_PATH_SIZE) * 8;
    return deleted;
}

/* Writes the numbers and the place of a file; returns the flags of what is unknown. */
EGRESS_INLINE __u32 take_file(struct egress_file* out, struct egress_tree* place,
                              struct file* file) {
    struct inode* const inode = BPF_CORE_READ(file, f_inode);
    struct super_block* const super = BPF_CORE_READ(inode, i_sb);
    const unsigned long magic = BPF_CORE_READ(super, s_magic);
    out->inode = BPF_CORE_READ(inode, i_ino);
    out->device = BPF_CORE_READ(super, s_dev);
    out->generation = BPF_CORE_READ(inode, i_generation);
    /* A user has mounted it in a user namespace: no path of the host leads there, and another file
     * system may have had its device number before. */
    if (BPF_CORE_READ(super, s_user_ns, level)) {
        out->device = EGRESS_FOREIGN;
    }
    const __u32 flags = take_place(place, file, super, out->device, out->inode);
    if (out->generation && magic != EGRESS_BTRFS && magic != EGRESS_OVERLAY) {
        out->path = 0;
    } else if (flags & EGRESS_PROCESS_LOST_PLACE ||
               place->bits >= EGRESS_DEVICE_BITS + EGRESS_PATH_SIZE * 8) {
        out->path = EGRESS_NO_PATH;
    } else {
        out->path = hash_of_place(place);
    }
    /* Includes the owner: a user can choose numbers and generations, but only for its own files.
     */
    if (out->path != EGRESS_NO_PATH) {
        out->path += BPF_CORE_READ(inode, i_uid.val) * 0x9e3779b97f4a7c15ULL;
    }
    return flags;
}

struct egress_walk {
    struct dentry* dentry;
    struct mount* mount;
    struct dentry* top;  /* root of that mount */
    struct dentry* root; /* where to stop; null: at the namespace's root */
    struct vfsmount* root_mount;
    char* text;
    __u32 at;    /* first byte that is written; the text ends at EGRESS_PATH_SIZE - 1 */
    __u32 whole; /* the root was reached */
};

/* One step from the file up to the root: writes a component, or crosses a mount. Not 0: done. */
static long walk_up(__u32 step, struct egress_walk* walk) {
    struct dentry* const dentry = walk->dentry;
    struct mount* const inner = walk->mount;
    struct vfsmount* const mount = (void*)inner + bpf_core_field_offset(struct mount, mnt);
    if (dentry == walk->root && mount == walk->root_mount) {
        walk->whole = 1;
        return 1;
    }
    struct egress_entry entry;
    read_entry(&entry, dentry);
    if (dentry == walk->top || (__u64)dentry == entry.parent) {
        struct mount* const outer = BPF_CORE_READ(inner, mnt_parent);
        if (outer == inner || dentry != walk->top) {
            walk->whole = 1; /* the namespace's root, or a file in no namespace (memfd) */
            return 1;
        }
        walk->dentry = BPF_CORE_READ(inner, mnt_mountpoint);
        walk->mount = outer;
        walk->top = BPF_CORE_READ(outer, mnt.mnt_root);
        return 0;
    }
    const __u32 length = entry.length;
    if (length + 1 > walk->at || length >= EGRESS_PATH_SIZE) {
        return 1; /* longer than any path in a rule */
    }
    walk->at -= length + 1;
    const __u32 at = egress_masked(walk->at, EGRESS_TEXT_SIZE - 1);
    walk->text[at] = '/';
    bpf_probe_read_kernel(&walk->text[at + 1], egress_masked(length, EGRESS_TEXT_SIZE - 1),
                          entry.name);
    walk->dentry = (struct dentry*)entry.parent;
    return 0;
}

/* Writes the path of a file as exec recorded it; returns the flags of what is known. */
EGRESS_INLINE __u32 take_path(struct egress_tree* path, const struct egress_file* name,
                              struct task_struct* task, struct file* file,
                              const struct egress_config* settings, __u64 number) {
    struct vfsmount* const mount = BPF_CORE_READ(file, f_path.mnt);
    struct egress_scratch* const room = claim();
    struct egress_walk walk = {
        .dentry = BPF_CORE_READ(file, f_path.dentry),
        .mount = (void*)mount - bpf_core_field_offset(struct mount, mnt),
        .top = BPF_CORE_READ(mount, mnt_root),
        .at = EGRESS_PATH_SIZE - 1 + egress_zero(number),
        .whole = (__u32)egress_zero(number),
    };
    __u32 flags = 0;
    __builtin_memset(path->path, 0, sizeof path->path);
    path->device = EGRESS_INSIDE;
    path->bits = EGRESS_DEVICE_BITS;
    if (!room) {
        return EGRESS_PROCESS_LOST_PATH;
    }
    walk.text = room->text;
    /* On the host the walk goes to the real root and ignores chroot(2), which any user may call in
     * a user namespace. Elsewhere it stops at the process' root, as no better one is known. The
     * place of the file decides, not that of the process: a process can pass a descriptor. */
    struct mount* const inner = walk.mount;
    if (BPF_CORE_READ(inner, mnt_ns, ns.inum) == settings->mount_namespace) {
        flags = EGRESS_PROCESS_HOST_PATH;
    } else {
        walk.root = BPF_CORE_READ(task, fs, root.dentry);
        walk.root_mount = BPF_CORE_READ(task, fs, root.mnt);
    }
    bpf_loop(EGRESS_MAX_MOUNTED, walk_up, &walk, 0);
    const __u32 at = walk.at & (EGRESS_TEXT_SIZE - 1);
    const __u32 length = EGRESS_PATH_SIZE - 1 - at;
    if (!(walk.whole + (__u32)egress_zero(number)) || length >= EGRESS_PATH_SIZE || !length) {
        release(room);
        return flags | EGRESS_PROCESS_LOST_PATH;
    }
    bpf_probe_read_kernel(path->path, egress_masked(length, EGRESS_TEXT_SIZE - 1), &room->text[at]);
    path->bits += (length + 1) * 8;
    __builtin_memcpy(room->path.path, path->path, sizeof room->path.path);
    bpf_map_update_elem(&paths, name, &room->path, BPF_ANY);
    release(room);
    return flags;
}

/* Identifies the files that the daemon has opened with O_PATH, exactly as exec identifies them. */
SEC("iter/task_file")
int egress_files(struct bpf_iter__task_file* context) {
    struct file* const file = context->file;
    if (!context->task || !file || !(BPF_CORE_READ(file, f_mode) & EGRESS_MODE_PATH)) {
        return 0;
    }
    struct egress_scratch* const room = claim();
    if (!room) {
        return 0;
    }
    struct egress_named* const named = &room->named;
    __builtin_memset(named, 0, sizeof *named);
    named->fd = context->fd;
    named->flags = take_file(&named->file, &named->place, file);
    bpf_seq_write(context->meta->seq, named, sizeof *named);
    release(room);
    return 0;
}

#endif
