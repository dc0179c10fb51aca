/* What names add to a verdict: the rules that name an address' names, as long as the answers that
 * gave it are good. verdict.h includes this file; the file that includes verdict.h defines besides:
 *
 *   names_at(view, number)     const struct egress_names *: a bucket, or null
 *   grants_at(view, number)    const struct egress_grants *: a set, or null
 */
#ifndef EGRESS_BPF_GRANTS_H
#define EGRESS_BPF_GRANTS_H

#include "daemon/bpf/names.h"

struct egress_probe {
    const struct egress_view* view;
    __u64 key;
    __u32 at;    /* bucket */
    __u32 found; /* index and flag; 0: not there */
};

static long egress_probe_step(__u32 number, struct egress_probe* probe) {
    const struct egress_names* const bucket =
        names_at(probe->view, probe->at & (probe->view->base->names_buckets - 1));
    __u64 left = 0;
    __u32 found = 0;
    (void)number;
    if (!bucket) {
        return 1;
    }
    ++probe->at;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_NAMES_WAYS; ++i) {
        found |= bucket->indexes[i] & -(__u32)(bucket->keys[i] == probe->key);
        left = bucket->keys[i]; /* ways are taken in order: the last one is 0 if one is free */
    }
    probe->found = found;
    return found || !left;
}

/* Index of the rules that name a key, perhaps with EGRESS_NAME_...; 0: there are none. */
EGRESS_INLINE __u32 egress_find_name(const struct egress_view* view, __u64 key) {
    struct egress_probe probe = {view, key, (__u32)key, (__u32)egress_zero(key)};
    if (!view->base->names_buckets) {
        return 0;
    }
    if (!egress_probe_step(0, &probe)) {
        EGRESS_LOOP(EGRESS_NAMES_STEPS - 1, egress_probe_step, &probe);
    }
    return probe.found + (__u32)egress_zero(key);
}

/* Which grants of a set are for the address and good: bits 1 to 7. */
EGRESS_INLINE __u32 egress_good_grants(const struct egress_grants* set, const __u8* address,
                                       __u64 now) {
    const __u64 high = ((const __u64*)address)[0];
    const __u64 low = ((const __u64*)address)[1];
    __u32 hits = 0;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_GRANTS_WAYS; ++i) {
        const volatile struct egress_grant* const grant = &set->each[i];
        const __u64 other = (((const volatile __u64*)grant->address)[0] ^ high) |
                            (((const volatile __u64*)grant->address)[1] ^ low);
        const __u64 until = grant->until;
        /* now < until, and it is not being written; without a branch. */
        hits |=
            (__u32)((egress_not_zero(other) ^ 1) & ((now - until) >> 63) & egress_not_zero(~until))
            << (i + 1);
    }
    return hits;
}

struct egress_merge {
    const struct egress_view* view;
    const struct egress_grants* sets[2];
    struct egress_vector* out;
    __u32 hits;
    __u32 rule; /* egress_named_by: the rule whose name is searched */
    __u64 key;  /* the result */
};

/* Takes the next grant; its key. */
EGRESS_INLINE __u64 egress_next_grant(struct egress_merge* merge) {
    const __u32 at = egress_lowest(merge->hits);
    /* What is before the grants of a set has a grant's size: so the verifier needs no branch. */
    const struct egress_grant* const first = (const struct egress_grant*)merge->sets[0];
    const struct egress_grant* const second = (const struct egress_grant*)merge->sets[1];
    const __u32 way = egress_masked(at, EGRESS_GRANTS_WAYS);
    merge->hits &= merge->hits - 1;
    return at <= EGRESS_GRANTS_WAYS ? first[way].key : second[way].key;
}

static long egress_merge_step(__u32 number, struct egress_merge* merge) {
    (void)number;
    if (!merge->hits) {
        return 1;
    }
    merge->key = egress_next_grant(merge);
    const __u32 index = egress_find_name(merge->view, merge->key);
    egress_add(merge->out, vector_at(merge->view, index & EGRESS_NAME_INDEX));
    return 0;
}

/* Finds the rules for an address by itself and by its names. `now` and `named` are the caller's. 0:
 * the tables are inconsistent. */
EGRESS_INLINE int egress_find_names(const struct egress_view* view, const __u8* address,
                                    struct egress_naming* naming) {
    const __u32 index = egress_destination(view, address);
    const struct egress_vector* const own = vector_at(view, index);
    const __u32 before = naming->named ? egress_find_name(view, naming->named) : 0;
    const __u64 hash = egress_grants_of(view->base->names_key, address);
    const struct egress_grants* const first = grants_at(view, EGRESS_FIRST_SET(hash));
    const struct egress_grants* const second = grants_at(view, EGRESS_SECOND_SET(hash));
    if (!first || !second || !own) {
        return 0;
    }
    naming->hash = hash;
    naming->hits = 0;
    naming->own = index;
    naming->only = 0;
    naming->in_use = 1;
    naming->resolved = EGRESS_RESOLVED;
    naming->rules = *own;
    if (before || naming->named == EGRESS_ANY_NAME) {
        egress_add(&naming->rules, vector_at(view, before & EGRESS_NAME_INDEX));
        return 1;
    }
    const int doubt = naming->now < *(const volatile __u64*)&first->doubt;
    __u32 hits = egress_good_grants(first, address, naming->now);
    if (first != second) {
        hits |= egress_good_grants(second, address, naming->now) << 8;
    }
    naming->hits = hits;
    naming->resolved = hits ? EGRESS_RESOLVED : doubt ? EGRESS_DOUBTFUL : EGRESS_LITERAL;
    if (hits) {
        struct egress_merge merge = {view, {first, second},  &naming->rules, hits,
                                     0,    egress_zero(hash)};
        EGRESS_LOOP(2 * EGRESS_GRANTS_WAYS, egress_merge_step, &merge);
        const __u64 several = egress_not_zero(hits & (hits - 1)) | doubt;
        naming->only = (merge.key + egress_zero(hash)) & (several - 1);
    }
    if (doubt) {
        egress_add(&naming->rules, vector_at(view, view->base->names_doubt));
    }
    return 1;
}

EGRESS_INLINE __u64 egress_has_rule(const struct egress_vector* vector, __u32 rule) {
    return vector ? vector->words[rule / 64 & (EGRESS_WORDS - 1)] >> rule % 64 & 1 : 0;
}

static long egress_named_step(__u32 number, struct egress_merge* merge) {
    (void)number;
    if (!merge->hits) {
        return 1;
    }
    const __u64 key = egress_next_grant(merge);
    const __u32 index = egress_find_name(merge->view, key);
    const __u64 has =
        egress_has_rule(vector_at(merge->view, index & EGRESS_NAME_INDEX), merge->rule);
    merge->key = has ? key : merge->key;
    return has != 0;
}

/* By whose name a rule matched, to be kept with the connection; 0: by none. */
EGRESS_INLINE __u64 egress_named_by(const struct egress_view* view,
                                    const struct egress_naming* naming, __u32 rule) {
    if (naming->resolved != EGRESS_RESOLVED || rule >= EGRESS_MAX_RULES) {
        return 0;
    }
    if (!naming->hits) {
        return naming->named;
    }
    if (egress_has_rule(vector_at(view, naming->own), rule)) {
        return egress_has_rule(vector_at(view, view->base->resolved[EGRESS_LITERAL]), rule)
                   ? 0
                   : EGRESS_ANY_NAME;
    }
    if (naming->only) {
        return naming->only;
    }
    const struct egress_grants* const first = grants_at(view, EGRESS_FIRST_SET(naming->hash));
    const struct egress_grants* const second = grants_at(view, EGRESS_SECOND_SET(naming->hash));
    if (!first || !second) {
        return 0;
    }
    struct egress_merge merge = {view, {first, second},          0, naming->hits,
                                 rule, egress_zero(naming->hash)};
    EGRESS_LOOP(2 * EGRESS_GRANTS_WAYS, egress_named_step, &merge);
    return merge.key + egress_zero(naming->hash);
}

#endif
