/* What all hooks share: the check of a process and a destination, its outcome, and the event.
 *
 * The verifier checks egress_prepare(), egress_decide() and egress_tell() once each, as global
 * functions: when it followed them through every path of every hook, loading took five times as
 * long. Hence the case is their only pointer argument.
 */
#ifndef EGRESS_BPF_JUDGE_H
#define EGRESS_BPF_JUDGE_H

#include "cgroups.h"
#include "container.h"
#include "job.h"
#include "kernel.h"
#include "maps.h"
#include "socket.h"
#include "tag.h"
#include "verdict.h"

#include "daemon/bpf/others.h"

#define EGRESS_REFUSE 0
#define EGRESS_PASS 1
#define EGRESS_REFUSE_LOUDLY 2 /* with ECONNREFUSED, if the hook can return it */

/* egress_decide(): the owner's rules must be computed first, or what names add. */
#define EGRESS_UNPREPARED 1
#define EGRESS_UNNAMED 2

#define EGRESS_NO_PIECE 255 /* egress_case.piece: none could be had */

/* A check and its outcome. In 6.1 its stack has no room for eight bytes more. */
struct egress_case {
    struct egress_flow flow;
    __u64 generation; /* of the policy in force at the check */
    /* The process judged, and what to store if the check passes. */
    struct egress_socket owner;
    __u32 rule;
    __u16 flags; /* of the rule */
    __u16 stop;  /* offset of the next address of the packet's route */
    __u8 stops;  /* addresses from there on */
    __u8 hook;
    __u8 sends;    /* the owner is sending: it is the current task */
    __u8 kernel;   /* and it is a kernel thread */
    __u8 known;    /* a verdict is stored, and only due for a repeat */
    __u8 prepared; /* egress_prepare() has run for the owner's rules */
    __u8 verdict;  /* EGRESS_PASS... */
    __u8 action;
    __u8 post;        /* an event is posted */
    __u8 denies;      /* the rule refuses, even if the flow passes */
    __u8 asks_cgroup; /* its cgroup's rules may have to be computed */
    __u8 creates;     /* EGRESS_CREATES... */
    __u8 silent;      /* of the socket, as in struct egress_socket */
    __u8 piece;       /* of the scratch, with what names add; 0: none; EGRESS_NO_PIECE */
    __u8 of_job;      /* its rules are asked, not yet the host's */
    __u8 again;       /* a packet of a connection that was refused before */
};

EGRESS_INLINE int is_refused(const struct egress_case* found) {
    return found->verdict != EGRESS_PASS;
}

EGRESS_INLINE int open_view(struct egress_view* view, __u64 generation) {
    const __u32 zero = 0;
    view->generation = generation;
    view->slot = EGRESS_SLOT_OF(generation);
    view->base = EGRESS_FIND(view, bases, &zero);
    return view->base != 0;
}

/* The same, with the vectors. */
EGRESS_INLINE int open_tables(struct egress_view* view, __u64 generation) {
    if (!open_view(view, generation)) {
        return 0;
    }
    view->vectors = bpf_map_lookup_elem(&vectors, &view->slot);
    return view->vectors != 0;
}

/* The tables are inconsistent: the flow is refused and counted, never silently. */
EGRESS_INLINE void refuse_broken(struct egress_case* found, const struct egress_config* settings) {
    egress_lose(EGRESS_LOST_BROKEN);
    found->verdict = settings && settings->monitor ? EGRESS_PASS : EGRESS_REFUSE;
    found->action = EGRESS_EVENT_BLOCKED;
    found->denies = 1;
}

/* The same, for a caller that has not looked up the settings. */
__noinline int egress_refuse_broken(struct egress_case* found) {
    const __u32 zero = 0;
    if (found) {
        refuse_broken(found, bpf_map_lookup_elem(&config, &zero));
    }
    return 0;
}

/* The process from the table; null if it has exited. */
EGRESS_INLINE struct egress_process* process_of(const struct egress_socket* owner) {
    const __u32 tgid = owner->tgid;
    struct egress_process* process = bpf_map_lookup_elem(&processes, &tgid);
    return process && process->started == owner->started ? process : 0;
}

/* Index of a program's rules. Those of the next program have another place, so that a verdict on
 * another CPU never reads a mixture of both. */
EGRESS_INLINE __u32 place_of_subject(const struct egress_view* view, __u32 epoch) {
    return egress_masked((view->slot & (EGRESS_SLOTS - 1)) | (epoch & 2), EGRESS_SUBJECTS - 1);
}

EGRESS_INLINE const struct egress_subject* find_subject(const struct egress_process* process,
                                                        const struct egress_view* view) {
    const __u32 epoch = *(volatile const __u32*)&process->epoch;
    const struct egress_subject* subject = &process->subjects[place_of_subject(view, epoch)];
    return subject->generation == view->generation && subject->epoch == epoch ? subject : 0;
}

/* Computes the rules that the owner's program and ancestry select, once per program and policy. Two
 * threads may do so at once; they write the same words. */
EGRESS_INLINE void prepare_subject(struct egress_case* found, const struct egress_view* view) {
    struct egress_process* process = process_of(&found->owner);
    struct egress_scratch* const room = process ? claim() : 0;
    if (!process || !room) {
        return;
    }
    const __u32 epoch = *(volatile __u32*)&process->epoch;
    if (!(epoch & 1) && egress_select(view, process, &room->vector)) {
        struct egress_subject* subject = &process->subjects[place_of_subject(view, epoch)];
        subject->generation = 0;
        subject->vector = room->vector;
        subject->epoch = epoch;
        __sync_lock_test_and_set(&subject->generation, view->generation);
    }
    release(room);
}

/* Computes what egress_decide() found missing: the owner's rules. Those of the cgroup follow. */
__noinline int egress_prepare(struct egress_case* found) {
    struct egress_view view = {};
    if (!found) {
        return 0;
    }
    found->prepared = 1;
    if (!open_tables(&view, found->generation)) {
        return 0;
    }
    prepare_subject(found, &view);
    found->asks_cgroup = view.base->has_cgroups != 0;
    return 0;
}

/* The owner's rules. A process that is not in the table, is in the middle of an exec, or runs
 * another program than the table has, is judged by all refusals that might apply to it. Kernel
 * threads run no program. */
EGRESS_INLINE const struct egress_vector* subject_of(const struct egress_case* found,
                                                     const struct egress_process* process,
                                                     const struct egress_view* view) {
    const struct egress_subject* subject = process ? find_subject(process, view) : 0;
    if (subject && (!found->sends || process->exec_id == found->owner.exec_id)) {
        return &subject->vector;
    }
    if (found->of_job || (found->sends && found->kernel)) {
        return vector_at(view, view->base->stranger); /* a job's rules name no program */
    }
    egress_lose(EGRESS_LOST_SUSPECT);
    return vector_at(view, view->base->suspect);
}

/* A separate function: in 6.1 the key would overflow the stack of egress_decide(). */
static __noinline const struct egress_vector* known_cgroup(__u64 id, __u64 generation) {
    const struct egress_cgroup_key key = {id, generation};
    return bpf_map_lookup_elem(&cgroup_rules, &key);
}

/* The cgroup's rules; null: they must be computed first. */
EGRESS_INLINE const struct egress_vector* cgroup_of(const struct egress_case* found,
                                                    const struct egress_view* view) {
    if (!view->base->has_cgroups) {
        return &view->base->any_cgroup;
    }
    const struct egress_vector* rules = known_cgroup(found->owner.cgroup, found->generation);
    if (!rules && found->prepared) {
        egress_lose(EGRESS_LOST_SUSPECT);
        return vector_at(view, view->base->suspect_cgroup);
    }
    return rules;
}

/* Whether the current task is in a container. To follow the pointers takes as long as half a
 * verdict: call it only if needed. */
__noinline int egress_place(struct egress_case* found) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (found && settings) {
        found->flow.in_container =
            egress_in_container(bpf_get_current_task_btf(), found->owner.cgroup, settings);
    }
    return 0;
}

/* Whether this is the process of a self-test. All others pay for one comparison. */
EGRESS_INLINE int is_canary(const struct egress_config* settings,
                            const struct egress_socket* owner) {
    return settings->canary && settings->canary == owner->tgid &&
           settings->canary_started == owner->started &&
           bpf_ktime_get_boot_ns() < settings->canary_until;
}

/* Turns the rule found into verdict, action and flags. */
EGRESS_INLINE void weigh(struct egress_case* found, const struct egress_base* base,
                         const struct egress_config* settings) {
    const __u32 index = found->rule;
    found->action = EGRESS_EVENT_ALLOWED;
    found->flags = 0;
    found->post = 0;
    found->denies = 0;
    if (index == EGRESS_BROKEN) {
        refuse_broken(found, settings);
        return;
    }
    if (index == EGRESS_CANARY || index == EGRESS_CLOSED) {
        const int only_seen = index == EGRESS_CLOSED && settings->monitor;
        if (index == EGRESS_CANARY) {
            __sync_fetch_and_add((__u64*)&settings->canary_refused, 1);
        }
        found->verdict = only_seen ? EGRESS_PASS : EGRESS_REFUSE;
        found->post = 1;
        found->action = only_seen ? EGRESS_EVENT_MONITOR : EGRESS_EVENT_BLOCKED;
        found->denies = 1;
        return;
    }
    if (index >= EGRESS_MAX_RULES) {
        found->post = 1;
        return;
    }
    const struct egress_rule* rule = &base->rules[index];
    const int refused = rule->verdict != EGRESS_ALLOW;
    const __u32 flags = rule->flags;
    const int only_seen = (flags & EGRESS_RULE_AUDIT) || (refused && settings->monitor);
    found->flags = flags;
    found->denies = refused;
    found->post = !(flags & EGRESS_RULE_QUIET) &&
                  (refused || (flags & (EGRESS_RULE_AUDIT | EGRESS_RULE_LOG | EGRESS_RULE_ALARM)));
    found->action = only_seen ? EGRESS_EVENT_MONITOR
                    : refused ? EGRESS_EVENT_BLOCKED
                              : EGRESS_EVENT_ALLOWED;
    if (refused && !only_seen) {
        found->verdict = rule->verdict == EGRESS_REJECT ? EGRESS_REFUSE_LOUDLY : EGRESS_REFUSE;
    }
}

/* Computes what egress_decide() found missing: the rules for the address by its names. They are in
 * a piece of the scratch until egress_leave_names(). */
__noinline int egress_take_names(struct egress_case* found) {
    struct egress_view view = {};
    if (!found) {
        return 0;
    }
    found->piece = EGRESS_NO_PIECE;
    struct egress_scratch* const piece = claim();
    if (!piece) {
        return 0;
    }
    const __u32 number = piece->number;
    struct egress_naming* const naming = bpf_map_lookup_elem(&namings, &number);
    if (!naming) {
        return 0;
    }
    naming->now = bpf_ktime_get_boot_ns();
    naming->named = found->owner.named;
    if (open_tables(&view, found->generation) &&
        egress_find_names(&view, found->flow.address, naming)) {
        found->piece = piece->number;
    } else {
        release(piece);
    }
    return 0;
}

/* Notes by whose name the rule matched, and gives the piece back. */
__noinline int egress_leave_names(struct egress_case* found) {
    struct egress_view view = {};
    if (!found) {
        return 0;
    }
    const __u32 number = found->piece;
    found->piece = 0;
    struct egress_scratch* const piece = bpf_map_lookup_elem(&scratch, &number);
    const struct egress_naming* const naming = bpf_map_lookup_elem(&namings, &number);
    if (!number || !piece || !naming) {
        return 0;
    }
    if (open_tables(&view, found->generation)) {
        found->owner.named = egress_named_by(&view, naming, found->rule);
    }
    release(piece);
    return 0;
}

/* A separate function: in 6.1 the key would overflow the stack of egress_decide(). */
static __noinline const struct egress_naming* naming_of(__u32 number) {
    return bpf_map_lookup_elem(&namings, &number);
}

/* The verdict, and whether to post an event. Returns 0, EGRESS_UNPREPARED or EGRESS_UNNAMED. */
__noinline int egress_decide(struct egress_case* found) {
    const __u32 zero = 0;
    struct egress_view view = {};
    struct egress_question question;
    if (!found) {
        return 0;
    }
    found->verdict = EGRESS_PASS;
    if (!open_tables(&view, found->generation)) {
        egress_refuse_broken(found);
        return 0;
    }
    const struct egress_naming* const naming = naming_of(found->piece);
    /* Without a branch: the verifier would follow each of them to the end. */
    const __u64 unnamed = egress_not_zero(view.base->has_names) &
                          (egress_not_zero(found->creates | found->piece) ^ 1);
    if (unnamed) {
        return EGRESS_UNNAMED;
    }
    if (!naming) {
        egress_refuse_broken(found);
        return 0;
    }
    egress_ask(&view, &found->flow, found->creates, naming, &question);
    /* After all others, as they are of one table or another: the verifier follows each of them to
     * the end. */
    const struct egress_process* process = process_of(&found->owner);
    if (process && !found->prepared && !find_subject(process, &view)) {
        return EGRESS_UNPREPARED;
    }
    question.cgroup = cgroup_of(found, &view);
    if (!question.cgroup && !found->prepared) {
        return EGRESS_UNPREPARED;
    }
    question.subject = subject_of(found, process, &view);
    /* Looked up here and not before: it would be on the stack all the while. */
    const struct egress_config* const settings = bpf_map_lookup_elem(&config, &zero);
    if (!settings) {
        return 0;
    }
    __u64 now = egress_zero(found->generation);
    if (view.base->has_times) {
        now = bpf_ktime_get_boot_ns();
    }
    found->rule = egress_first(&view, &question, now, settings->week_at_boot);
    if (found->rule == EGRESS_UNMATCHED && found->creates == EGRESS_CREATES_CLOSED) {
        found->rule = EGRESS_CLOSED;
    }
    if (is_canary(settings, &found->owner)) {
        found->rule = EGRESS_CANARY;
    }
    weigh(found, view.base, settings);
    return 0;
}

/* What the case's address and port are in [dns]: a resolver's own, whose questions are read;
 * another port of one at the port of DNS; or nothing. */
enum egress_leads { EGRESS_LEADS_ELSEWHERE, EGRESS_LEADS_BESIDE, EGRESS_LEADS_TO_RESOLVER };

static __noinline int leads_to_resolver(const struct egress_case* found) {
    struct egress_resolver key = {};
    if (!found) {
        return EGRESS_LEADS_ELSEWHERE;
    }
    __builtin_memcpy(key.address, found->flow.address, sizeof key.address);
    key.port = found->flow.port;
    if (bpf_map_lookup_elem(&resolvers, &key)) {
        return EGRESS_LEADS_TO_RESOLVER;
    }
    key.port = EGRESS_DNS_PORT;
    return bpf_map_lookup_elem(&resolvers, &key) ? EGRESS_LEADS_BESIDE : EGRESS_LEADS_ELSEWHERE;
}

/* [dns] "others" overrules a line that allows any port, and so does "queries listed" where an
 * approved resolver would take questions over TLS, which no hook can read. The rules of a job need
 * no such word: what they allow, the host's rules decide. */
__noinline int egress_weigh_others(struct egress_case* found) {
    const __u32 zero = 0;
    struct egress_view view = {};
    const struct egress_config* const settings = bpf_map_lookup_elem(&config, &zero);
    if (!found || !settings || found->verdict != EGRESS_PASS || found->of_job || found->creates ||
        found->rule == EGRESS_CANARY || !egress_may_be_others(&found->flow, found->flags) ||
        !open_view(&view, found->generation) || !(view.base->others | view.base->lists_questions)) {
        return 0;
    }
    const int leads = leads_to_resolver(found);
    const int sealed = leads == EGRESS_LEADS_BESIDE && view.base->lists_questions;
    if (!sealed && (leads != EGRESS_LEADS_ELSEWHERE || !view.base->others)) {
        return 0;
    }
    const int refused = sealed || view.base->others == EGRESS_OTHERS_REFUSED;
    found->rule = sealed ? EGRESS_SEALED : EGRESS_OTHERS;
    found->flags = EGRESS_RULE_ALARM;
    found->verdict = refused && !settings->monitor ? EGRESS_REFUSE : EGRESS_PASS;
    found->action = found->verdict != EGRESS_PASS ? EGRESS_EVENT_BLOCKED
                    : refused                     ? EGRESS_EVENT_MONITOR
                                                  : EGRESS_EVENT_ALLOWED;
    found->post = 1;
    found->denies = refused;
    return 0;
}

/* The verdict of one policy, after computing what it needs. */
EGRESS_INLINE void decide_by(struct egress_case* found) {
    int left = egress_decide(found);
    if (left == EGRESS_UNNAMED) {
        egress_take_names(found);
        left = egress_decide(found);
    }
    if (left == EGRESS_UNPREPARED) {
        egress_prepare(found);
        if (found->asks_cgroup) {
            egress_find_cgroup(found->owner.cgroup_at, found->owner.cgroup, found->generation);
        }
        egress_decide(found);
    }
    if (found->piece) {
        egress_leave_names(found);
    }
    egress_weigh_others(found);
}

static const struct egress_fold no_fold;

/* Whether to fold the check into a count. If not: `count` is how many checks the event stands for,
 * and `kept` counts the next ones; null: no room. */
EGRESS_INLINE int may_fold(const struct egress_case* found, const struct egress_process* process,
                           const struct egress_config* settings, __u64 now, __u64* count,
                           struct egress_fold** kept) {
    struct egress_fold_key key = {
        .program = process ? process->program.inode : 0,
        .tgid = found->owner.tgid,
        .uid = found->flow.uid,
        .rule = found->rule,
        .port = found->flow.port,
        .protocol = found->flow.protocol,
        .action = found->action,
    };
    __builtin_memcpy(key.address, found->flow.address, sizeof key.address);
    struct egress_fold* fold = bpf_map_lookup_elem(&folds, &key);
    *kept = fold;
    *count = 1;
    if (!fold) {
        if (bpf_map_update_elem(&folds, &key, &no_fold, BPF_NOEXIST)) {
            egress_lose(EGRESS_LOST_FOLD);
        }
        *kept = fold = bpf_map_lookup_elem(&folds, &key);
        if (fold) {
            fold->sent = now;
        }
        return 0;
    }
    if (*(volatile const __u32*)&fold->ends) {
        *kept = 0; /* the next walk removes it */
        return 0;
    }
    const __u64 sent = fold->sent;
    if (now - sent < settings->fold_interval ||
        __sync_val_compare_and_swap(&fold->sent, sent, now) != sent) {
        __sync_fetch_and_add(&fold->count, 1);
        return 1;
    }
    *count = __sync_lock_test_and_set(&fold->count, 0) + 1;
    return 0;
}

/* Stores what unfold.h needs to report the checks that follow. */
EGRESS_INLINE void keep_look(struct egress_fold* fold, const struct egress_case* found,
                             const struct egress_process* process, __u64 generation) {
    fold->generation = generation;
    fold->cgroup = found->owner.cgroup;
    fold->named = found->owner.named;
    fold->gid = found->flow.gid;
    fold->in_container = found->flow.in_container;
    fold->pid = found->owner.tgid;
    fold->rule_flags = found->flags;
    fold->type = found->flow.type;
    fold->hook = found->hook;
    fold->job = found->owner.job;
    fold->started = process ? process->started : 0;
    fold->ppid = process ? process->ppid : 0;
    if (process) {
        fold->program = process->program;
        __builtin_memcpy(fold->comm, process->command, sizeof fold->comm);
    }
    if (found->sends) {
        struct task_struct* const task = (void*)bpf_get_current_task();
        BPF_CORE_READ_INTO(&fold->comm, task, comm);
    }
}

__noinline int egress_tell(struct egress_case* found) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!found || !settings) {
        return 0;
    }
    const struct egress_process* const process = process_of(&found->owner);
    const __u64 now = bpf_ktime_get_boot_ns();
    /* Of the host's policy, also if a job's rule has decided: the job tells which rules. */
    const __u64 generation =
        found->generation & EGRESS_OF_JOB ? settings->generation : found->generation;
    __u64 count = 1;
    struct egress_fold* fold = 0;
    if (may_fold(found, process, settings, now, &count, &fold)) {
        return 0;
    }
    if (fold) {
        keep_look(fold, found, process, generation);
    }
    const __u64 number = __sync_fetch_and_add((__u64*)&settings->sequence, 1) + 1;
    struct egress_event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) {
        egress_lose(EGRESS_LOST_RING);
        return 0;
    }
    event->sequence = number;
    event->time = now;
    event->generation = generation;
    event->cgroup = found->owner.cgroup;
    event->count = count;
    event->named = found->owner.named;
    event->flow = found->flow;
    event->rule = found->rule;
    event->pid = found->owner.tgid;
    event->tgid = found->owner.tgid;
    event->action = found->action;
    event->hook = found->hook;
    event->job = found->owner.job;
    event->rule_flags = found->flags;
    event->known = process ? EGRESS_KNOWN_PROCESS : EGRESS_KNOWN_NOTHING;
    event->ppid = 0;
    event->ancestors_used = 0;
    __builtin_memset(event->path, 0, sizeof event->path);
    __builtin_memset(event->comm, 0, sizeof event->comm);
    __builtin_memset(event->hostname, 0, sizeof event->hostname);
    if (process) {
        event->ppid = process->ppid;
        event->program = process->program;
        event->ancestors_used = process->ancestors_used;
        __builtin_memcpy(event->ancestors, process->ancestors, sizeof event->ancestors);
        __builtin_memcpy(event->path, process->path.path, sizeof event->path);
        __builtin_memcpy(event->comm, process->command, sizeof event->comm);
    }
    if (found->sends) {
        struct task_struct* const task = (void*)bpf_get_current_task();
        event->pid = BPF_CORE_READ(task, pid);
        BPF_CORE_READ_INTO(&event->comm, task, comm);
        BPF_CORE_READ_INTO(&event->hostname, task, nsproxy, uts_ns, name.nodename);
    }
    bpf_ringbuf_submit(event, 0);
    return 0;
}

#endif
