/* Whether a cgroup is a container's, by its name.
 *
 * Plain C for both compilers: the kernel's hooks and `egressctl explain` share this code. The names
 * are those that the usual runtimes give; egress.conf(5) lists them.
 */
#ifndef EGRESS_BPF_CONTAINER_NAME_H
#define EGRESS_BPF_CONTAINER_NAME_H

#ifndef EGRESS_INLINE
#define EGRESS_INLINE static inline __attribute__((always_inline))
#endif

/* Size of a name with its terminator, zero-padded: of an id with ".scope", in words. The beginning
 * of a longer one is enough, as every name that is compared to its end is shorter; but what follows
 * egress_before_id() has to be read anew. */
#define EGRESS_NAME_SIZE 72
#define EGRESS_ID_SIZE 64 /* hexadecimal digits of a container's id */

enum egress_name_kind {
    EGRESS_NAME_OTHER = 0,
    EGRESS_NAME_CONTAINER = 1, /* it and everything below are a container's */
    EGRESS_NAME_PAYLOAD = 2,   /* a container's, directly below a machine */
    EGRESS_NAME_MACHINE = 3,   /* of systemd-nspawn, which is itself inside */
};

/* Whether the text begins with `word`, a literal; and whether it is the word. */
#define EGRESS_BEGINS(text, word) (__builtin_memcmp(text, word, sizeof(word) - 1) == 0)
#define EGRESS_IS(text, word) (__builtin_memcmp(text, word, sizeof(word)) == 0)

/* Number of bytes before a container's id, if one follows. */
EGRESS_INLINE unsigned egress_before_id(const char* name) {
    return EGRESS_BEGINS(name, "docker-")           ? sizeof "docker-" - 1
           : EGRESS_BEGINS(name, "libpod-payload-") ? sizeof "libpod-payload-" - 1
           : EGRESS_BEGINS(name, "libpod-")         ? sizeof "libpod-" - 1
           : EGRESS_BEGINS(name, "crio-")           ? sizeof "crio-" - 1
           : EGRESS_BEGINS(name, "cri-containerd-") ? sizeof "cri-containerd-" - 1
           : EGRESS_BEGINS(name, "nerdctl-")        ? sizeof "nerdctl-" - 1
                                                    : 0;
}

/* Whether the text is a container's id, with ".scope" or without. */
EGRESS_INLINE int egress_is_id(const char* text) {
#ifdef __clang__
#pragma clang loop unroll(disable)
#endif
    for (unsigned i = 0; i < EGRESS_ID_SIZE; ++i) {
        const unsigned char each = (unsigned char)text[i];
        if ((unsigned char)(each - '0') > 9 && (unsigned char)(each - 'a') > 5) {
            return 0;
        }
    }
    return !text[EGRESS_ID_SIZE] || EGRESS_IS(text + EGRESS_ID_SIZE, ".scope");
}

/* The kind of a name without an id. */
EGRESS_INLINE enum egress_name_kind egress_kind_of_name(const char* name) {
    if (EGRESS_IS(name, "kubepods") || EGRESS_IS(name, "kubepods.slice") ||
        EGRESS_BEGINS(name, "kubepods-") || EGRESS_IS(name, "kubelet-kubepods.slice") ||
        EGRESS_BEGINS(name, "kubelet-kubepods-") || EGRESS_IS(name, "lxc") ||
        EGRESS_IS(name, "lxc.payload") || EGRESS_BEGINS(name, "lxc.payload.")) {
        return EGRESS_NAME_CONTAINER;
    }
    if (EGRESS_BEGINS(name, "machine-") || EGRESS_BEGINS(name, "systemd-nspawn@")) {
        return EGRESS_NAME_MACHINE;
    }
    return EGRESS_IS(name, "payload") ? EGRESS_NAME_PAYLOAD : EGRESS_NAME_OTHER;
}

/* Whether a cgroup of this kind, or the one right below it, is a container's. */
EGRESS_INLINE int egress_is_containers(enum egress_name_kind outer, enum egress_name_kind inner) {
    return outer == EGRESS_NAME_CONTAINER ||
           (outer == EGRESS_NAME_MACHINE && inner == EGRESS_NAME_PAYLOAD);
}

#endif
