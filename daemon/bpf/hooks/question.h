/* Who asks a resolver, and what its lines leave to it: see listed.h. */
#ifndef EGRESS_BPF_QUESTION_H
#define EGRESS_BPF_QUESTION_H

#include "identify.h"
#include "job.h"
#include "listed.h"

#define EGRESS_GATHERED 0
#define EGRESS_GATHER_FAILED 2 /* besides EGRESS_UNPREPARED */

/* Collects the lines that allow and may be the owner's, whatever their destination. Times count
 * only when a connection is judged. */
__noinline int egress_gather(struct egress_case* found, int of_job) {
    struct egress_view view = {};
    struct egress_question q;
    if (!found || !open_tables(&view, found->generation)) {
        return EGRESS_GATHER_FAILED;
    }
    if (!view.base->lists_questions) {
        return EGRESS_GATHERED;
    }
    const struct egress_naming* const none = naming_of(0);
    if (!none) {
        return EGRESS_GATHER_FAILED;
    }
    egress_ask(&view, &found->flow, 1, none, &q);
    const struct egress_process* const process = process_of(&found->owner);
    if (process && !found->prepared && !find_subject(process, &view)) {
        return EGRESS_UNPREPARED;
    }
    q.cgroup = cgroup_of(found, &view);
    if (!q.cgroup) {
        return found->prepared ? EGRESS_GATHER_FAILED : EGRESS_UNPREPARED;
    }
    q.subject = subject_of(found, process, &view);
    const __u32 number = found->piece;
    struct egress_scratch* const piece = bpf_map_lookup_elem(&scratch, &number);
    if (!piece || !q.uid || !q.gid || !q.subject) {
        return EGRESS_GATHER_FAILED;
    }
    struct egress_vector* const out = &piece->asker.rules[of_job != 0];
    for (int w = 0; w < EGRESS_WORDS; ++w) {
        out->words[w] = q.uid->words[w] & q.gid->words[w] & q.subject->words[w] &
                        q.place->words[w] & q.cgroup->words[w] & ~view.base->refusals.words[w];
    }
    piece->asker.generations[of_job != 0] = found->generation;
    return EGRESS_GATHERED;
}

/* The same, after computing the rules that it needs. */
EGRESS_INLINE int gather_fully(struct egress_case* found, int of_job) {
    int left = egress_gather(found, of_job);
    if (left == EGRESS_UNPREPARED) {
        egress_prepare(found);
        if (found->asks_cgroup) {
            egress_find_cgroup(found->owner.cgroup_at, found->owner.cgroup, found->generation);
        }
        left = egress_gather(found, of_job);
    }
    return left;
}

/* 0: who sends may ask for anything; EGRESS_NO_PIECE: for nothing; else the piece with what it may
 * ask for. */
__noinline int egress_know_asker(struct __sk_buff* skb) {
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    if (!sk) {
        return 0;
    }
    const int soon = egress_identify(skb, &found, kind_of(sk));
    if (soon != EGRESS_UNDECIDED) {
        /* What a process left behind when it ended may be a question, too. */
        return soon == EGRESS_PASS && is_kernels(sk) ? 0 : EGRESS_NO_PIECE;
    }
    struct egress_scratch* const piece = claim();
    if (!piece) {
        return EGRESS_NO_PIECE;
    }
    piece->asker.generations[0] = 0;
    piece->asker.generations[1] = 0;
    piece->asker.key = 0;
    found.piece = piece->number;
    int left = gather_fully(&found, 0);
    if (left == EGRESS_GATHERED && found.owner.job) {
        left = live_job(found.owner.job) ? EGRESS_GATHERED : EGRESS_GATHER_FAILED;
        found.generation = EGRESS_JOB_GENERATION((__u64)found.owner.job);
        found.of_job = 1;
        found.prepared = 1;
        if (left == EGRESS_GATHERED) {
            left = egress_gather(&found, 1);
        }
    }
    /* MPTCP may send the parts of a question over several connections. */
    if (left == EGRESS_GATHERED && sk->protocol == IPPROTO_TCP && EGRESS_MULTIPATH_OF(sk) &&
        (piece->asker.generations[0] || piece->asker.generations[1])) {
        left = EGRESS_GATHER_FAILED;
    }
    if (left != EGRESS_GATHERED) {
        egress_lose(EGRESS_LOST_SUSPECT);
        release(piece);
        return EGRESS_NO_PIECE;
    }
    if (!piece->asker.generations[0] && !piece->asker.generations[1]) {
        release(piece);
        return 0;
    }
    return found.piece;
}

/* Gives the piece back, and turns the verdict of egress_read_dns() into that of the packet. */
__noinline int egress_end_asking(struct __sk_buff* skb, __u32 asker, int verdict) {
    const __u32 zero = 0;
    struct egress_case found = {.hook = EGRESS_HOOK_PACKET};
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct egress_scratch* const piece = bpf_map_lookup_elem(&scratch, &asker);
    struct bpf_sock* sk = skb->sk;
    sk = sk ? bpf_sk_fullsock(sk) : 0;
    __u64 key = 0;
    if (piece && asker) {
        key = piece->asker.key;
        release(piece);
    }
    if (verdict != EGRESS_NOT_LISTED) {
        return verdict;
    }
    if (!sk || !settings || egress_identify(skb, &found, kind_of(sk)) != EGRESS_UNDECIDED) {
        return EGRESS_REFUSE;
    }
    found.rule = EGRESS_UNLISTED;
    found.flags = EGRESS_RULE_ALARM;
    found.action = settings->monitor ? EGRESS_EVENT_MONITOR : EGRESS_EVENT_BLOCKED;
    found.owner.named = key;
    egress_tell(&found);
    struct egress_job* const job = live_job(found.owner.job);
    if (job) {
        __sync_fetch_and_add(&job->refused, 1); /* the connection itself had passed */
    }
    return settings->monitor ? EGRESS_PASS : EGRESS_REFUSE;
}

#endif
