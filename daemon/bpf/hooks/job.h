/* Jobs: commands that egressctl run has started, with rules of their own in front of the host's.
 *
 * A process is in a job because the daemon marked it, or because its parent was at the fork. The
 * mark is in the process' entry: exec, setsid and setuid do not change it, and nothing takes it
 * off. The hooks count a job's processes, so that it ends with the last one, even if egressctl or
 * egressd has been killed.
 */
#ifndef EGRESS_BPF_JOB_H
#define EGRESS_BPF_JOB_H

#include "kernel.h"
#include "maps.h"

/* A process that the table does not have, while there are jobs: it may be of one. */
#define EGRESS_JOB_UNKNOWN 0xffffffffU

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, EGRESS_MAX_JOBS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct egress_job);
} jobs SEC(".maps");

EGRESS_INLINE struct egress_job* job_at(__u32 id) {
    const __u32 number = id & (EGRESS_MAX_JOBS - 1);
    return bpf_map_lookup_elem(&jobs, &number);
}

/* The job with that id; null: it is over. */
EGRESS_INLINE struct egress_job* live_job(__u32 id) {
    struct egress_job* const job = job_at(id);
    return job && job->id == id && job->processes ? job : 0;
}

/* The job of a process that is running. */
static __noinline __u32 job_of(__u32 tgid, __u64 started, int kernel) {
    const struct egress_process* const process = bpf_map_lookup_elem(&processes, &tgid);
    if (process && process->started == started) {
        return process->job;
    }
    return kernel ? 0 : EGRESS_JOB_UNKNOWN;
}

/* Counts a process that was born into its parent's job. */
static __noinline int enter_at_birth(__u32 id) {
    struct egress_job* const job = id ? job_at(id) : 0;
    if (job && job->id == id) {
        __sync_fetch_and_add(&job->processes, 1);
    }
    return 0;
}

static __noinline int leave_at_death(__u32 id) {
    struct egress_job* const job = id ? job_at(id) : 0;
    if (job && job->id == id && job->processes) {
        __sync_fetch_and_add(&job->processes, -1);
    }
    return 0;
}

/* Puts the process that the iterator was opened for into the job that asked for it. */
SEC("iter/task")
int egress_join(struct bpf_iter__task* context) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    struct task_struct* task = context->task;
    if (!task || !settings || task->pid != task->tgid) {
        return 0;
    }
    const __u32 id = settings->joining;
    struct egress_job* const job = id ? job_at(id) : 0;
    if (!job || job->id != id || job->joined != EGRESS_JOIN_ASKED) {
        return 0;
    }
    const __u32 tgid = task->tgid;
    const __u64 started = BPF_CORE_READ(task, start_boottime);
    if (started < job->earliest || started >= job->latest ||
        BPF_CORE_READ(task, cred, uid.val) != job->uid) {
        job->joined = EGRESS_JOIN_ANOTHER;
        return 0;
    }
    struct egress_process* const process = bpf_map_lookup_elem(&processes, &tgid);
    if (!process || process->started != started) {
        job->joined = EGRESS_JOIN_UNKNOWN;
        return 0;
    }
    __sync_fetch_and_add(&job->processes, 1);
    if (__sync_val_compare_and_swap(&process->job, 0, id)) {
        __sync_fetch_and_add(&job->processes, -1);
        job->joined = EGRESS_JOIN_NESTED;
        return 0;
    }
    job->joined = EGRESS_JOIN_DONE;
    return 0;
}

/* The job of the process that the iterator was last opened for; EGRESS_JOB_UNKNOWN, from the
 * daemon: it is gone. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} whose SEC(".maps");

/* Tells the daemon the job of a process that connects to its control socket. */
SEC("iter/task")
int egress_whose(struct bpf_iter__task* context) {
    const __u32 zero = 0;
    struct task_struct* task = context->task;
    __u32* const answer = bpf_map_lookup_elem(&whose, &zero);
    if (task && answer && task->pid == task->tgid) {
        *answer = job_of(task->tgid, BPF_CORE_READ(task, start_boottime), 0);
    }
    return 0;
}

#endif
