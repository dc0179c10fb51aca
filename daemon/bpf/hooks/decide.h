/* The whole verdict: by the rules of the owner's job, if it is in one, and then by the host's. */
#ifndef EGRESS_BPF_DECIDE_H
#define EGRESS_BPF_DECIDE_H

#include "job.h"
#include "judge.h"

#define EGRESS_JOB_DECIDES 1
#define EGRESS_JOB_TELLS 2

/* Turns the case to the rules of the owner's job; EGRESS_JOB_DECIDES: it is refused without them,
 * as the job is over, or as the hooks do not know whether the process is of one. */
__noinline int egress_enter_job(struct egress_case* found) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!found || !settings) {
        return 0;
    }
    const struct egress_job* const job = live_job(found->owner.job);
    if (!job) {
        egress_lose(EGRESS_LOST_SUSPECT);
        found->rule = EGRESS_NO_JOB;
        found->flags = 0;
        found->verdict = settings->monitor ? EGRESS_PASS : EGRESS_REFUSE;
        found->action = settings->monitor ? EGRESS_EVENT_MONITOR : EGRESS_EVENT_BLOCKED;
        found->post = 1;
        found->denies = 1;
        return EGRESS_JOB_DECIDES;
    }
    const __u64 named = found->owner.named;
    found->owner.named = found->owner.named_of_job;
    found->owner.named_of_job = named;
    found->generation = EGRESS_JOB_GENERATION((__u64)found->owner.job);
    found->of_job = 1;
    found->prepared = 1; /* nothing is computed in advance for a job's rules */
    return 0;
}

/* Turns it back to the host's rules, of that generation. EGRESS_JOB_DECIDES: the job has decided.
 * EGRESS_JOB_TELLS: what it would have done is an event of its own. */
__noinline int egress_leave_job(struct egress_case* found, __u64 generation) {
    if (!found) {
        return 0;
    }
    struct egress_job* const job = live_job(found->owner.job);
    const __u64 named = found->owner.named;
    found->owner.named = found->owner.named_of_job;
    found->owner.named_of_job = named;
    if (found->rule < EGRESS_MAX_RULES) {
        found->rule |= EGRESS_RULE_OF_JOB;
    }
    found->of_job = 0;
    found->prepared = 0;
    if (job && found->denies && !found->known && !found->again) {
        __sync_fetch_and_add(&job->refused, 1);
    }
    if (job && job->flags & EGRESS_JOB_LEARNS && is_refused(found)) {
        found->verdict = EGRESS_PASS;
        found->action = EGRESS_EVENT_MONITOR;
    }
    if (is_refused(found)) {
        return EGRESS_JOB_DECIDES; /* the generation stays the job's: nothing of it is stored */
    }
    if (job && job->flags & EGRESS_JOB_ALONE) {
        found->generation = generation; /* of the ticket */
        return EGRESS_JOB_DECIDES;
    }
    return found->post && !found->known ? EGRESS_JOB_TELLS : 0;
}

/* Counts what the host's rules refuse to a job. */
__noinline int egress_count_refusal(struct egress_case* found) {
    struct egress_job* const job =
        found && !found->known && !found->again ? live_job(found->owner.job) : 0;
    if (job) {
        __sync_fetch_and_add(&job->refused, 1);
    }
    return 0;
}

/* The verdict: of the job's rules first, if the owner is in one. What they allow, the host's rules
 * decide. */
EGRESS_INLINE void decide_fully(struct egress_case* found) {
    const __u64 generation = found->generation;
    if (found->owner.job) {
        if (egress_enter_job(found) == EGRESS_JOB_DECIDES) {
            return;
        }
        decide_by(found);
        const int left = egress_leave_job(found, generation);
        if (left == EGRESS_JOB_DECIDES) {
            return;
        }
        if (left == EGRESS_JOB_TELLS) {
            egress_tell(found);
        }
        found->generation = generation;
    }
    decide_by(found);
    if (found->owner.job && is_refused(found)) {
        egress_count_refusal(found);
    }
}

#endif
