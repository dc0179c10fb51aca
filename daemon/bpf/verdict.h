/* The verdict: process, destination, time -> the first rule that matches.
 *
 * The kernel's hooks, `egressctl explain` and the tests share this code. The file that includes it
 * first defines how a policy's tables are looked up:
 *
 *   struct egress_view                      a policy; has `const struct egress_base *base`
 *   vector_at(view, index)                  a vector, or null
 *   runs_at(view, number)                   const struct egress_runs *, or null
 *   host6(view, address)                    index, 0: not there (0 is the empty vector)
 *   prefix6(view, address)                  the same, by the longest prefix
 *   uid_rules(view, uid), gid_rules(...)    the same
 *   uid_range_rules, gid_range_rules        the same, by the longest range around it
 *   program_rules(view, file), parent_rules, under_rules   the same
 *   command_rules(view, text)               the same
 *   tree_rules(view, path)                  const struct egress_path_rules *, or null
 *   names_at(view, number), grants_at(view, number)        see grants.h
 *
 * Index 0 means "not there" in a table and is the empty vector; for "no rule" a table has
 * EGRESS_EMPTY, another empty vector. Nothing here parses, waits or allocates.
 */
#ifndef EGRESS_BPF_VERDICT_H
#define EGRESS_BPF_VERDICT_H

#include "abi.h"
#include "steps.h"

/* The hooks have a function of their own for it, which the verifier checks once. */
#ifndef EGRESS_SEARCH_RUNS
#define EGRESS_SEARCH_RUNS egress_search_runs
#endif

/* The kinds of check where only the kind of the socket is known. */
#define EGRESS_CREATES 1
#define EGRESS_CREATES_CLOSED 2 /* nothing will check its packets */

#define EGRESS_WEEK 604800ULL
/* Steps for every word, for every rule that is not in force now, and one for the end: the search
 * ends however many rules have expired. */
#define EGRESS_STEPS (EGRESS_WORDS + EGRESS_MAX_RULES + 1)

/* Number of the lowest set bit; `word` is not 0. BPF has no instruction for it, and branches would
 * multiply the paths that the verifier follows. Hence a de Bruijn sequence, which contains each run
 * of six bits once. */
static const __u8 egress_bit_of[64] = {
    0,  1,  2,  53, 3,  7,  54, 27, 4,  38, 41, 8,  34, 55, 48, 28, 62, 5,  39, 46, 44, 42,
    22, 9,  24, 35, 59, 56, 49, 18, 29, 11, 63, 52, 6,  26, 37, 40, 33, 47, 61, 45, 43, 21,
    23, 58, 17, 10, 51, 25, 36, 32, 60, 20, 57, 16, 50, 31, 19, 15, 30, 14, 13, 12,
};

EGRESS_INLINE __u32 egress_lowest(__u64 word) {
    return egress_bit_of[((word & -word) * 0x022fdd63cc95386dULL) >> 58];
}

/* The first 16 bits of some bytes in network byte order. */
EGRESS_INLINE __u32 egress_top(const __u8* bytes) {
    return egress_masked((__u32)bytes[0] << 8 | bytes[1], 0xffff);
}

EGRESS_INLINE int egress_is_v4(const __u8* address) {
    const __u32* words = (const __u32*)address;
    return words[0] == 0 && words[1] == 0 && words[2] == __builtin_bswap32(0xffff);
}

/* 1 if a <= b, without a branch. */
EGRESS_INLINE __u32 egress_not_above(__u32 a, __u32 b) {
    return ((__u64)a - b - 1) >> 63;
}

/* 1 if the word is not 0, without a branch that the verifier would follow sixteen times over. */
EGRESS_INLINE __u64 egress_not_zero(__u64 word) {
    __u64 sign = word | -word;
    __asm__ volatile("" : "+r"(sign)); /* else the compiler makes it a branch again */
    return sign >> 63;
}

/* condition ? yes : no, without a branch. */
EGRESS_INLINE __u32 egress_chosen(__u64 condition, __u32 yes, __u32 no) {
    const __u32 mask = -(__u32)egress_not_zero(condition);
    return (yes & mask) | (no & ~mask);
}

/* A binary search over the structures of runs that may contain an address; the first of them does
 * not begin after it. */
struct egress_halving {
    const struct egress_view* view;
    __u32 low; /* last 16 bits of the address */
    __u32 from;
    __u32 number;
};

/* Keeps the half before the structure that begins with `first`, or the half from it on. */
EGRESS_INLINE void egress_narrow(struct egress_halving* search, __u32 half, __u32 first) {
    const __u32 behind = -egress_not_above(first, search->low);
    search->from += half & behind;
    search->number = half + ((search->number - 2 * half) & behind);
}

static long egress_halve(__u32 step, struct egress_halving* search) {
    (void)step;
    const __u32 half = search->number / 2;
    if (!half) {
        return 1;
    }
    const struct egress_runs* middle = runs_at(search->view, search->from + half);
    if (!middle) {
        search->from = EGRESS_BROKEN;
        return 1;
    }
    egress_narrow(search, half, middle->first[0]);
    return 0;
}

/* Index of the vector of an address whose last 16 bits these are. */
EGRESS_INLINE __u32 egress_search_runs(const struct egress_runs* runs, __u32 low) {
    __u32 at = 0;
    __u32 left = EGRESS_RUNS_SIZE;
    EGRESS_UNROLL
    for (int step = 0; step < 5; ++step) { /* 21, 11, 6, 3, 2, 1 are left */
        at += left / 2 & -egress_not_above(runs->first[egress_masked(at + left / 2, 31)], low);
        left -= left / 2;
    }
    at = egress_masked(at, 31);
    const __u32 code = runs->codes >> 3 * at & 7;
    /* Both vector bits of the code, or 0 after a single address. */
    const __u32 which = code & -((code < EGRESS_RUN_SINGLE) | (runs->first[at] == low));
    return runs->vectors[egress_masked(which, EGRESS_RUNS_VECTORS - 1)];
}

/* Index of the vector of an IPv4 address below an entry with EGRESS_RUNS. */
EGRESS_INLINE __u32 egress_run(const struct egress_view* view, __u64 entry, __u32 low) {
    struct egress_halving search = {view, low, (__u32)entry, EGRESS_RUNS_MORE(entry) + 1};
    egress_narrow(&search, search.number / 2, EGRESS_RUNS_MIDDLE(entry));
    if (search.number > 1) {
        EGRESS_LOOP(EGRESS_RUNS_STEPS, egress_halve, &search);
    }
    const struct egress_runs* runs = runs_at(view, search.from);
    __u32 found = EGRESS_BROKEN + (__u32)egress_zero(low); /* no vector has this index */
    if (runs) {
        found = EGRESS_SEARCH_RUNS(runs, low);
    }
    return found;
}

/* Index of the vector of a destination. */
EGRESS_INLINE __u32 egress_destination(const struct egress_view* view, const __u8* address) {
    if (egress_is_v4(address)) {
        const __u64 entry = view->base->v4_top[egress_top(address + 12)];
        return entry & EGRESS_RUNS ? egress_run(view, entry, egress_top(address + 14))
                                   : (__u32)entry;
    }
    const __u32 entry = view->base->v6_top[egress_top(address)];
    __u32 found = (__u32)egress_zero(entry);
    if (entry & EGRESS_FINER) {
        found = host6(view, address);
        if (!found) {
            found = prefix6(view, address);
        }
    }
    return egress_chosen(found, found, entry & EGRESS_INDEX);
}

EGRESS_INLINE void egress_add(struct egress_vector* to, const struct egress_vector* what) {
    if (what) {
        to->any |= what->any;
        for (int w = 0; w < EGRESS_WORDS; ++w) {
            to->words[w] |= what->words[w];
        }
    }
}

#include "daemon/bpf/grants.h" /* uses the above */

/* Adds the rules of each ancestor. */
struct egress_climb {
    const struct egress_view* view;
    const struct egress_process* process;
    struct egress_vector* out;
};

static long egress_climb_step(__u32 number, struct egress_climb* climb) {
    if (number >= climb->process->ancestors_used || number >= EGRESS_MAX_ANCESTORS) {
        return 1;
    }
    const __u32 index = under_rules(climb->view, &climb->process->ancestors[number]);
    if (index) {
        egress_add(climb->out, vector_at(climb->view, index));
    }
    return 0;
}

/* Finds the rules that a process' program and ancestry select; 0: the tables are inconsistent. Uses
 * one vector and pointers, as the BPF stack has only 512 bytes. */
EGRESS_INLINE int egress_select(const struct egress_view* view,
                                const struct egress_process* process, struct egress_vector* out) {
    const struct egress_base* base = view->base;
    const __u32 flags = process->flags;
    const struct egress_path_rules* place = base->has_trees ? tree_rules(view, &process->place) : 0;
    const struct egress_path_rules* path = base->has_inside ? tree_rules(view, &process->path) : 0;
    /* All bits are set if the condition holds: what is unknown or unlinked matches only
     * refusals. */
    const __u64 deleted = -(__u64)((flags & EGRESS_PROCESS_DELETED) != 0);
    const __u64 lost = -(__u64)((flags & EGRESS_PROCESS_LOST_LINEAGE) != 0);
    const __u64 orphan = lost & -(__u64)(process->ancestors_used == 0);
    __u64 any = 0;

    struct egress_climb climb = {view, process, out};
    *out = base->any_under;
    if (base->has_lineage) {
        EGRESS_LOOP(EGRESS_MAX_ANCESTORS, egress_climb_step, &climb);
    }
    /* Index 0 is an empty vector, so that the verifier follows one path whether it is there or
     * not. */
    const struct egress_vector* parent =
        vector_at(view, process->ancestors_used ? parent_rules(view, &process->ancestors[0]) : 0);
    const struct egress_vector* program = vector_at(view, program_rules(view, &process->program));
    const struct egress_vector* command = vector_at(view, command_rules(view, process->command));
    const struct egress_vector* by_place =
        vector_at(view, !place                              ? 0
                        : flags & EGRESS_PROCESS_LOST_PLACE ? place->uncertain
                                                            : place->rules);
    const struct egress_vector* by_path =
        vector_at(view, !path                              ? 0
                        : flags & EGRESS_PROCESS_LOST_PATH ? path->uncertain
                                                           : path->rules);
    if (!parent || !program || !command || !by_place || !by_path) {
        return 0;
    }
    for (int w = 0; w < EGRESS_WORDS; ++w) {
        const __u64 refusals = base->refusals.words[w];
        const __u64 word = (out->words[w] | (refusals & lost)) &
                           (base->any_parent.words[w] | parent->words[w] | (refusals & orphan)) &
                           (base->any_program.words[w] | program->words[w] | command->words[w] |
                            ((by_place->words[w] | by_path->words[w]) & (refusals | ~deleted)));
        out->words[w] = word;
        any |= egress_not_zero(word) << w;
    }
    out->any = any;
    return 1;
}

/* Whether a rule with a time is in force. `week` is the second of the local week. It has no
 * branches, for the verifier's sake: an unused window has length 0. */
EGRESS_INLINE int egress_in_force(const struct egress_rule* rule, __u64 now, __u32 week) {
    __u64 inside = rule->windows_used == 0;
    EGRESS_UNROLL
    for (int i = 0; i < EGRESS_MAX_WINDOWS; ++i) {
        const __u64 since = (__u32)(week - rule->windows[i].from);
        inside |= (since - (rule->windows[i].to - rule->windows[i].from)) >> 63;
    }
    return inside && (!rule->until || now < rule->until);
}

/* The vectors of one question, one per dimension. */
#define EGRESS_VECTOR_OF(dimension, label) const struct egress_vector* dimension;
struct egress_question {
    EGRESS_DIMENSIONS(EGRESS_VECTOR_OF)
};
#undef EGRESS_VECTOR_OF

/* Looks up the vectors of a flow but for `subject` and `cgroup`, which are the caller's. `naming`
 * is computed by egress_find_names() if the policy has_names; else it is that of no names.
 * `creates`: only the kind of the socket is known. */
EGRESS_INLINE void egress_ask(const struct egress_view* view, const struct egress_flow* flow,
                              int creates, const struct egress_naming* naming,
                              struct egress_question* q) {
    const struct egress_base* base = view->base;
    __u32 destination = egress_destination(view, flow->address);
    __u32 port = base->ports[flow->port];
    __u32 index = (__u32)egress_zero(flow->uid);

    /* Choose between indexes, and without a branch: the verifier follows each pointer, and each
     * branch, to the end. */
    destination = egress_chosen(naming->in_use, base->resolved[EGRESS_RESOLVED], destination);
    const __u32 kind =
        egress_chosen(creates ^ EGRESS_CREATES_CLOSED, base->at_create, base->at_closed);
    destination = egress_chosen(creates, kind, destination);
    port = egress_chosen(creates, kind, port);
    q->destination = vector_at(view, destination);
    q->port = vector_at(view, port);
    q->protocol = vector_at(view, base->protocols[flow->type & (EGRESS_TYPES - 1)][flow->protocol]);
    if (base->has_uids) {
        index = uid_rules(view, flow->uid);
    }
    if (!index && base->has_ranges) {
        index = uid_range_rules(view, flow->uid);
    }
    q->uid = vector_at(view, egress_chosen(index, index, base->other_uids));
    index = (__u32)egress_zero(flow->gid);
    if (base->has_gids) {
        index = gid_rules(view, flow->gid);
    }
    if (!index && base->has_ranges) {
        index = gid_range_rules(view, flow->gid);
    }
    q->gid = vector_at(view, egress_chosen(index, index, base->other_gids));
    q->place = &base->places[flow->in_container & 1];
    q->names = &naming->rules;
    /* EGRESS_RESOLVED for a socket being created, as no name is known yet. */
    q->resolved = vector_at(
        view, base->resolved[egress_masked(naming->resolved | (__u32)egress_not_zero(creates), 3)]);
}

/* The search, a step at a time: the verifier would follow a plain loop through every path. */
struct egress_search {
    const struct egress_view* view;
    const struct egress_question* question;
    __u64 word; /* what remains of the current word */
    __u64 now;
    __u32 week;
    __u32 rule; /* the result */
    __u32 any;  /* words that remain */
    __u32 at;   /* number of the current word */
};

EGRESS_INLINE void egress_take_word(struct egress_search* search) {
    const struct egress_question* q = search->question;
    const __u32 w = egress_lowest(search->any) & (EGRESS_WORDS - 1);
    search->any &= search->any - 1;
    search->at = w;
#define EGRESS_AND_WORD(dimension, label) &(q->dimension->words[w])
    search->word = ~0ULL EGRESS_DIMENSIONS(EGRESS_AND_WORD);
#undef EGRESS_AND_WORD
}

EGRESS_INLINE __u32 egress_index(const struct egress_search* search) {
    return egress_masked(search->at * 64 + egress_lowest(search->word), EGRESS_MAX_RULES - 1);
}

static long egress_step(__u32 number, struct egress_search* search) {
    (void)number;
    if (!search->word) {
        if (!search->any) {
            search->rule = EGRESS_UNMATCHED;
            return 1;
        }
        egress_take_word(search);
        return 0;
    }
    const __u32 index = egress_index(search);
    const struct egress_rule* rule = &search->view->base->rules[index];
    if (!(rule->flags & EGRESS_RULE_TIMED) || egress_in_force(rule, search->now, search->week)) {
        search->rule = index;
        return 1;
    }
    search->word &= search->word - 1;
    return 0;
}

/* Index into base->rules of the first rule that matches, or EGRESS_UNMATCHED, or EGRESS_BROKEN.
 * `now` is the boot clock, needed if base->has_times; `week_at_boot` is the second of the local
 * week when that clock was 0. */
EGRESS_INLINE __u32 egress_first(const struct egress_view* view, const struct egress_question* q,
                                 __u64 now, __u64 week_at_boot) {
#define EGRESS_OR_MISSING(dimension, label) || !q->dimension
#define EGRESS_AND_ANY(dimension, label) &(q->dimension->any)
    if (0 EGRESS_DIMENSIONS(EGRESS_OR_MISSING)) {
        return EGRESS_BROKEN;
    }
    struct egress_search search = {
        .view = view,
        .question = q,
        .word = egress_zero(q->destination->any),
        .now = now,
        .week =
            view->base->has_times ? (__u32)((now / EGRESS_SECOND + week_at_boot) % EGRESS_WEEK) : 0,
        .rule = EGRESS_BROKEN,
        .any = (__u32)(~0ULL EGRESS_DIMENSIONS(EGRESS_AND_ANY)),
        .at = 0,
    };
#undef EGRESS_OR_MISSING
#undef EGRESS_AND_ANY
    /* Mostly the first word decides, by a rule without a time: no need for the loop then. */
    if (!search.any) {
        return EGRESS_UNMATCHED;
    }
    egress_take_word(&search);
    if (search.word) {
        const __u32 index = egress_index(&search);
        if (!(view->base->rules[index].flags & EGRESS_RULE_TIMED)) {
            return index;
        }
    }
    EGRESS_LOOP(EGRESS_STEPS, egress_step, &search);
    return search.rule + (__u32)egress_zero(q->destination->any);
}

#endif
