/* What kernel and daemon share of a job, a command that egressctl run has started: part of abi.h.
 */
#ifndef EGRESS_BPF_JOB_ABI_H
#define EGRESS_BPF_JOB_ABI_H

#define EGRESS_MAX_JOBS 32 /* commands that egressctl run has started and that still run */

#define EGRESS_MAX_JOB_NAMES 8192 /* 32 times 128 lines, and those of the daemon before */

/* A job's policy has a generation that tells it from the host's: the job's id. The lowest bits of
 * an id are the number of the slot, from EGRESS_MAX_JOBS on. */
#define EGRESS_ALL_SLOTS (2 * EGRESS_MAX_JOBS)
#define EGRESS_OF_JOB (1ULL << 63)
#define EGRESS_JOB_GENERATION(id) (EGRESS_OF_JOB | (id))
/* Without a branch, which egress_decide() has no stack for. */
#define EGRESS_SLOT_OF(generation)                                                                 \
    ((__u32)((generation) &                                                                        \
             ((EGRESS_SLOTS - 1) | (-((generation) >> 63) & (EGRESS_ALL_SLOTS - 1)))))

enum egress_job_flag {
    EGRESS_JOB_ALONE = 1,  /* its rules decide alone, what they allow is allowed */
    EGRESS_JOB_LEARNS = 2, /* its rules refuse nothing, they only report */
    EGRESS_JOB_UNIX = 4,   /* it may connect to all sockets of AF_UNIX */
};

/* What became of the process that asked for a job. */
enum egress_joined {
    EGRESS_JOIN_ASKED = 0,
    EGRESS_JOIN_DONE = 1,
    EGRESS_JOIN_UNKNOWN = 2, /* the hooks do not know the process */
    EGRESS_JOIN_ANOTHER = 3, /* another process has its number by now */
    EGRESS_JOIN_NESTED = 4,  /* it is in a job already */
};

/* A command that egressctl run has started, with all that it starts: each process has the job's id
 * in its entry. By the lowest bits of the id. */
struct egress_job {
    __u32 id;        /* 0: free */
    __u32 last;      /* the id before: a process never finds another job under its own id */
    __u32 flags;     /* egress_job_flag */
    __u32 uid;       /* who asked */
    __u64 processes; /* that live; 0: the job is over, and its id means nothing any more */
    __u64 refused;   /* checks */
    /* The start of the process that may join, boot clock, from and to; `joined` tells whether it
     * has. */
    __u64 earliest;
    __u64 latest;
    __u32 joined; /* egress_joined */
    __u32 has_names;
};

/* What a connect or a datagram names of a socket of AF_UNIX. */
#define EGRESS_UNIX_SIZE 112 /* 108 bytes at most, and zeros */
struct egress_unix_name {
    __u32 length;   /* bytes: of a path without the NUL that ends it, else with the first */
    __u32 abstract; /* no path */
    char text[EGRESS_UNIX_SIZE];
};

/* Key of the names that jobs may connect to; the value is enum egress_unix. */
struct egress_unix_rule {
    __u32 job; /* id; 0: for all */
    __u32 zero;
    struct egress_unix_name name;
};
#define EGRESS_MAX_UNIX_OF_JOB 32
#define EGRESS_MAX_UNIX 4096 /* of all jobs, of those that are just over, and for all */

enum egress_unix {
    EGRESS_UNIX_ALLOWED = 1,
    EGRESS_UNIX_SILENT = 2, /* refused, but neither counted nor reported */
};

#endif
