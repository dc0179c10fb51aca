/* What the kernel side and the daemon share: sizes, a policy's tables, process state, events.
 *
 * Plain C for both compilers. Addresses and the inode's device are in the kernel's own forms:
 * addresses in network byte order, devices as MAJOR << 20 | MINOR (not what stat(2) gives).
 * Everything else is in host byte order. Times are nanoseconds of the boot clock.
 */
#ifndef EGRESS_BPF_ABI_H
#define EGRESS_BPF_ABI_H

#ifndef __bpf__
#include <linux/types.h>
#endif

/* A change of any structure below gets another number; pinned maps of another number are not
 * adopted, but go on beside until they are replaced. layout.h holds the layout to the number. */
#define EGRESS_ABI 11

#define EGRESS_MAX_RULES 1024
#define EGRESS_WORDS (EGRESS_MAX_RULES / 64)
#define EGRESS_MAX_ANCESTORS 16
/* A path with its terminator; with a device it fills the key of a trie. */
#define EGRESS_PATH_SIZE 252
#define EGRESS_COMMAND_SIZE 16
#define EGRESS_MAX_WINDOWS 16 /* of one rule, in a week */
#define EGRESS_SECOND 1000000000ULL
#define EGRESS_SLOTS 2 /* policies loaded at once: the one in force and the next */

#include "daemon/bpf/job_abi.h"

/* A set of rules, one bit each, the first rule at bit 0 of words[0]. */
struct egress_vector {
    __u64 any; /* bit w: words[w] is not zero */
    __u64 words[EGRESS_WORDS];
};

/* Identity of a file; files.h computes it at exec and for the daemon. An inode number alone is not
 * enough: the file system reuses freed ones, the subvolumes of btrfs count from the same number,
 * and each layer of an overlay has its own. The generation tells such files apart; where it cannot
 * (0, btrfs, overlay), the path inside the file system does. */
struct egress_file {
    __u64 inode;
    __u32 device; /* of the super block, as mountinfo shows it */
    __u32 generation;
    /* The owner, and where the generation is not enough a keyed hash of the path inside the file
     * system. */
    __u64 path;
};
#define EGRESS_NO_PATH (~0ULL) /* the path is needed but unknown: such a file equals no other */

/* An entry of v6_top is the index of a vector, with this flag or without. */
#define EGRESS_FINER 0x40000000U /* longer prefixes exist below: search them */
#define EGRESS_INDEX 0x3fffffffU

/* An entry of v4_top is the index of a vector or, if the highest bit is set, names the runs of the
 * addresses below it: the number of their first structure, how many structures follow, and the
 * first address of the middle one (the second of two). Usually the search then ends at one
 * structure. */
#define EGRESS_RUNS (1ULL << 63)
#define EGRESS_RUNS_MORE(entry) ((__u32)((entry) >> 32) & 0x7fff)
#define EGRESS_RUNS_MIDDLE(entry) ((__u32)((entry) >> 47) & 0xffff)
#define EGRESS_RUNS_SIZE 21
#define EGRESS_RUNS_VECTORS 4   /* different ones in one structure */
#define EGRESS_RUNS_STEPS 14    /* halvings for the most structures of one entry, 16,384 */
#define EGRESS_RUNS_INDEX 65535 /* the greatest index that fits */

#define EGRESS_EMPTY 1 /* index of an empty vector that a table may name; 0: not there */

/* Names of destinations, by their keys (names.h): buckets of one cache line in an open hash. A key
 * is in the bucket that its lowest bits number or, if that is full, in one of the next. */
#define EGRESS_NAMES_WAYS 5
#define EGRESS_NAMES_STEPS 64          /* buckets that may be searched for one name */
#define EGRESS_NAME_REBINDS (1U << 31) /* in an index: private addresses are granted, too */
#define EGRESS_NAME_REFUSES (1U << 30) /* some of the rules refuse */
#define EGRESS_NAME_INDEX 0x3fffffffU
struct egress_names {
    __u64 keys[EGRESS_NAMES_WAYS];    /* 0: free */
    __u32 indexes[EGRESS_NAMES_WAYS]; /* of vectors, perhaps with EGRESS_NAME_... */
    __u32 zero;
};

#define EGRESS_TYPES 8
#define EGRESS_PROTOCOLS 256

enum egress_rule_verdict { EGRESS_ALLOW = 0, EGRESS_DENY = 1, EGRESS_REJECT = 2 };

enum egress_rule_flag {
    EGRESS_RULE_AUDIT = 1, /* report, do not enforce */
    EGRESS_RULE_LOG = 2,   /* report allowed flows, too */
    EGRESS_RULE_QUIET = 4, /* no event */
    EGRESS_RULE_ALARM = 8,
    EGRESS_RULE_TIMED = 16, /* `until` and `windows` say when it is in force */
    EGRESS_RULE_PORTS = 32, /* it names ports */
};

/* Seconds of the week, Monday 00:00 local time is 0; `to` is not included. */
struct egress_window {
    __u32 from;
    __u32 to;
};

struct egress_rule {
    __u64 until; /* boot clock; 0: no end */
    __u32 line;  /* number of the rule among all, from 1; events show it */
    __u16 flags;
    __u8 verdict;
    __u8 windows_used;
    struct egress_window windows[EGRESS_MAX_WINDOWS];
};

/* The fixed-size part of a policy. "index" below: into the policy's vectors. */
struct egress_base {
    __u64 generation;
    __u32 rules_used;
    __u32 has_cgroups; /* some rule asks for one */
    __u32 has_lineage; /* some rule asks for parent or under */
    __u32 has_places;  /* some rule asks for container or host */
    __u32 has_trees;   /* some rule names a program by path, or a directory tree */
    __u32 has_inside;  /* some rule names a program by the path that exec recorded */
    __u32 has_units;   /* some rule names a unit */
    __u32 has_uids;    /* some rule names a user */
    __u32 has_gids;    /* some rule names a group */
    __u32 has_ranges;  /* some of those users or groups have subordinate ids */
    __u32 has_times;   /* some rule has windows or an end */
    __u32 has_names;   /* some rule names a destination, or asks for `resolved` */
    /* Not 0: some rule asks for `resolved`; perhaps with EGRESS_NAME_REFUSES. */
    __u32 has_resolved;
    __u32 lists_questions; /* [dns] "queries listed" */
    __u32 names_buckets;   /* of the table of names: a power of two; 0: it names none */
    /* Index: refusals of destinations by name; for an address that may have lost a grant. */
    __u32 names_doubt;
    __u64 names_key[2]; /* egress_config.path_key, with which the names were hashed */
    /* Index: the rules that ask for no cgroup, and every refusal; for an unknown cgroup. */
    __u32 suspect_cgroup;
    /* Index: rules that may decide when only the kind of the socket is known. */
    __u32 at_create;
    /* Indexes: rules for users and groups that no rule names. */
    __u32 other_uids;
    __u32 other_gids;
    /* Indexes, by egress_resolved: the rules without `resolved`; every rule; those without and
     * every refusal; the last is not used. */
    __u32 resolved[4];
    __u32 stranger; /* index: rules that name neither program nor ancestry */
    /* Index: those, and every refusal; for an unknown process. */
    __u32 suspect;
    /* Index: like at_create, for a socket whose packets cannot be checked either. */
    __u32 at_closed;
    __u32 others;                     /* egress_others */
    struct egress_vector refusals;    /* rules that refuse */
    struct egress_vector any_program; /* rules that name no program */
    struct egress_vector any_parent;
    struct egress_vector any_under;
    struct egress_vector places[2];  /* rules that may match on the host; in a container */
    struct egress_vector any_cgroup; /* rules that ask for none */
    struct egress_rule rules[EGRESS_MAX_RULES];
    __u32 protocols[EGRESS_TYPES][EGRESS_PROTOCOLS]; /* indexes */
    __u32 ports[65536];                              /* indexes */
    __u64 v4_top[65536];                             /* by the first 16 bits: index, or RUNS */
    __u32 v6_top[65536]; /* by the first 16 bits: index, perhaps FINER */
};

/* Runs of IPv4 addresses with the same vector, in order, each by the last 16 bits of its first
 * address. The structure has the size of a cache line. Each run has three bits of `codes`, from the
 * lowest on: the number of its vector, and EGRESS_RUN_SINGLE if the run is one address after which
 * vectors[0] applies again. Most lists contain hosts, and a host then takes one run. The first run
 * of an entry's first structure begins at 0; unused runs at the end begin at 65535. */
#define EGRESS_RUN_SINGLE 4
struct egress_runs {
    __u16 first[EGRESS_RUNS_SIZE];
    __u16 zero;
    __u16 vectors[EGRESS_RUNS_VECTORS];
    __u32 zeros;
    __u64 codes;
};

/* Keys of longest-prefix tables; BPF requires `bits` in front. */
struct egress_prefix6 {
    __u32 bits;
    __u8 address[16];
};
/* A path inside a file system, which a process cannot change by mounting. A tree's path ends with
 * its '/', a program's with its terminator; zero-padded. `bits` includes the device's. Numbers that
 * no device has mark other kinds of path. */
struct egress_tree {
    __u32 bits;
    __u32 device;
    char path[EGRESS_PATH_SIZE];
};
#define EGRESS_DEVICE_BITS 32
#define EGRESS_INSIDE 0xffffffffU  /* path that exec recorded, below the process' root */
#define EGRESS_CGROUPS 0xfffffffeU /* path of a cgroup2, ending in '/' */
#define EGRESS_FOREIGN 0xfffffffcU /* any file system mounted in a user namespace */
#define EGRESS_UNITS 0xfffffffdU   /* name of a unit, with its terminator, or "name@" */

struct egress_path_rules {
    __u32 rules; /* index */
    /* Index. For a device alone: refusals that name something on it; for a file whose place on it
     * is unknown. For a unit: refusals; for a cgroup whose name a user has chosen. */
    __u32 uncertain;
};

/* Key of the longest-prefix tables of ids; the id in network byte order. */
struct egress_id_range {
    __u32 bits;
    __u32 id;
};

struct egress_key6 {
    __u8 address[16];
};
struct egress_key_command {
    char text[EGRESS_COMMAND_SIZE];
};

/* The tables of a policy beside its base: name, kind of map, flags, key, value. An index is one
 * into the vectors, but for `lenders`: the uid that lends those ids. The hooks' maps, what the
 * installer fills and empties, and the members of struct Tables follow this list. */
#define EGRESS_ARRAY_FLAGS (BPF_F_MMAPABLE | BPF_F_INNER_MAP)
#define EGRESS_TABLES(X)                                                                           \
    X(vectors, BPF_MAP_TYPE_ARRAY, EGRESS_ARRAY_FLAGS, __u32, struct egress_vector)                \
    X(runs, BPF_MAP_TYPE_ARRAY, EGRESS_ARRAY_FLAGS, __u32, struct egress_runs)                     \
    X(names, BPF_MAP_TYPE_ARRAY, EGRESS_ARRAY_FLAGS, __u32, struct egress_names)                   \
    X(hosts6, BPF_MAP_TYPE_HASH, 0, struct egress_key6, __u32)                                     \
    X(prefixes6, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct egress_prefix6, __u32)           \
    X(uids, BPF_MAP_TYPE_HASH, 0, __u32, __u32)                                                    \
    X(gids, BPF_MAP_TYPE_HASH, 0, __u32, __u32)                                                    \
    X(uid_ranges, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct egress_id_range, __u32)         \
    X(gid_ranges, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct egress_id_range, __u32)         \
    X(lenders, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct egress_id_range, __u32)            \
    X(commands, BPF_MAP_TYPE_HASH, 0, struct egress_key_command, __u32)                            \
    X(programs, BPF_MAP_TYPE_HASH, 0, struct egress_file, __u32)                                   \
    X(parents, BPF_MAP_TYPE_HASH, 0, struct egress_file, __u32)                                    \
    X(unders, BPF_MAP_TYPE_HASH, 0, struct egress_file, __u32)                                     \
    X(trees, BPF_MAP_TYPE_LPM_TRIE, BPF_F_NO_PREALLOC, struct egress_tree, struct egress_path_rules)

/* The dimensions of a question, of which each leaves a set of rules, and how explain calls them. */
#define EGRESS_DIMENSIONS(X)                                                                       \
    X(destination, "destination")                                                                  \
    X(names, "destination") /* those by name, if any are */                                        \
    X(resolved, "resolved")                                                                        \
    X(port, "port")                                                                                \
    X(protocol, "protocol")                                                                        \
    X(uid, "user")                                                                                 \
    X(gid, "group")                                                                                \
    X(subject, "program") /* and ancestry */                                                       \
    X(place, "place")     /* container or host */                                                  \
    X(cgroup, "cgroup")

enum egress_process_flag {
    EGRESS_PROCESS_HOST_PATH = 1, /* `path` was walked in the host's own mount namespace */
    /* Older than the hooks: it may have chosen `path` and `command` itself. */
    EGRESS_PROCESS_SWEPT = 2,
    EGRESS_PROCESS_LOST_PLACE = 4,    /* only the device of `place` is known */
    EGRESS_PROCESS_LOST_PATH = 8,     /* `path` is unknown */
    EGRESS_PROCESS_DELETED = 16,      /* the file had been unlinked before its exec */
    EGRESS_PROCESS_LOST_LINEAGE = 32, /* ancestors may be missing in the list */
};

/* The rules that a process' program and ancestry select, for one generation and one program.
 */
struct egress_subject {
    __u64 generation; /* 0: not computed; written last */
    __u32 epoch;      /* of the process, read before */
    __u32 zero;
    struct egress_vector vector;
};

#define EGRESS_SUBJECTS (2 * EGRESS_SLOTS) /* of this program and of the previous one */

/* Key of the rules that a cgroup's name selects, for one generation. */
struct egress_cgroup_key {
    __u64 id;
    __u64 generation;
};

#include "daemon/bpf/answer_abi.h" /* uses the above */

/* What files.h reports of a descriptor of the daemon. */
struct egress_named {
    __u32 fd;
    __u32 flags; /* EGRESS_PROCESS_LOST_PLACE, _DELETED */
    struct egress_file file;
    struct egress_tree place;
    __u32 zero;
};

/* By tgid. Filled at fork and exec, removed when the last thread ends. */
struct egress_process {
    /* Start of the thread group's leader, boot clock; tells processes with a reused tgid apart. */
    __u64 started;
    __u64 exec_id; /* the leader's self_exec_id */
    struct egress_file program;
    struct egress_file ancestors[EGRESS_MAX_ANCESTORS]; /* programs; 0: the parent's */
    __u32 ancestors_used;
    __u32 tgid;
    __u32 ppid;                        /* tgid of the parent at fork */
    __u32 flags;                       /* egress_process_flag */
    char command[EGRESS_COMMAND_SIZE]; /* last component of the path given to exec */
    __u32 epoch;                       /* changes with each exec; odd during one */
    __u32 job;                /* id; 0: none. From the parent; no process can leave its job */
    struct egress_tree place; /* of the program's file inside its file system */
    struct egress_tree path;  /* as exec recorded it; EGRESS_INSIDE */
    struct egress_subject subjects[EGRESS_SUBJECTS];
};

/* By socket: its owner, and whether its packets pass. For sockets that connect, and for those whose
 * sends no other hook sees. */
struct egress_socket {
    /* egress_ticket() of the process and generation that it passed for; 0: none. */
    __u64 passed;
    __u64 checked; /* when, in ticks of the kernel */
    __u64 started; /* of the last user, as in struct egress_process */
    __u64 exec_id;
    __u32 tgid;
    __u32 uid; /* as in struct egress_flow */
    __u32 gid;
    __u8 in_container;
    union {
        __u8 wrote;  /* TCP: the owner may have bytes in the socket's queue */
        __u8 silent; /* UDP: EGRESS_SILENT... */
    };
    __u8 others; /* other processes may, too: struct egress_writers */
    /* UDP: connected more than once, so a packet on its way may be for an earlier peer. */
    __u8 moved;
    __u64 cgroup;    /* id: the owner's at that time */
    __u64 cgroup_at; /* address; valid only while that cgroup has the id */
    /* Key of the name by whose grant the connection was let through; it holds as long as the
     * connection, as far as the rules name it. 0: by no name. */
    __u64 named;
    __u64 named_of_job; /* the same, for the rules of its job */
    __u32 job;          /* id: the owner's */
    __u32 used_by_job;  /* id: of an owner's, this one or one before */
};

#define EGRESS_SILENT 1           /* no datagram to the peer has been judged since the connect */
#define EGRESS_SILENT_ELSEWHERE 2 /* and the last one was given another address */

/* By TCP socket with bytes of several processes in its queue: the processes other than the
 * owner. */
#define EGRESS_WRITERS 16
struct egress_writer {
    struct egress_socket who;
    __u32 end; /* sequence number after its last byte */
    __u32 used;
};
struct egress_writers {
    struct egress_writer each[EGRESS_WRITERS];
    /* Generation under which all writers without an entry here pass; 0: not all do. */
    __u64 more_passed;
    __u32 more_end;
    __u32 more; /* such writers exist */
};

/* What a hook checks. */
struct egress_flow {
    __u8 address[16]; /* network byte order; IPv4 mapped */
    __u16 port;
    __u8 type;     /* SOCK_* */
    __u8 protocol; /* IPPROTO_* */
    __u32 uid;     /* real, as the initial user namespace numbers it */
    __u32 gid;
    __u32 in_container;
};

/* The outcome of one check; the daemon folds no further. */
enum egress_event_action {
    EGRESS_EVENT_ALLOWED = 0,
    EGRESS_EVENT_BLOCKED = 1,
    EGRESS_EVENT_MONITOR = 2
};

enum egress_hook {
    EGRESS_HOOK_CONNECT4 = 0,
    EGRESS_HOOK_CONNECT6 = 1,
    EGRESS_HOOK_SENDMSG4 = 2,
    EGRESS_HOOK_SENDMSG6 = 3,
    EGRESS_HOOK_CREATE = 4,
    EGRESS_HOOK_PACKET = 5,
    EGRESS_HOOK_UNIX = 6,
    EGRESS_HOOKS = 7,
};

/* Why an event was lost or a flow judged without full knowledge. */
enum egress_loss {
    EGRESS_LOST_RING = 0,    /* the ring was full */
    EGRESS_LOST_PROCESS = 1, /* no entry could be made for a process */
    EGRESS_LOST_BROKEN = 2,  /* the tables were inconsistent: the flow was refused */
    EGRESS_LOST_SOCKET = 3,  /* no state could be kept for a socket: it was refused */
    EGRESS_LOST_SUSPECT = 4, /* unknown process or cgroup: judged strictly */
    EGRESS_LOST_FOLD = 5,    /* no room to fold a repeat: it became an event */
    EGRESS_LOST_ANSWER = 6,  /* a peer was forgotten early: answers to it were judged */
    EGRESS_LOSSES = 7,
};

#define EGRESS_HOSTNAME_SIZE 65

enum egress_known {
    EGRESS_KNOWN_NOTHING = 0, /* the process is not in the table; the thread chose comm itself */
    EGRESS_KNOWN_PROCESS = 1,
    EGRESS_KNOWN_PROGRAM = 2, /* it has exited; its program is known, its ancestors are not */
};

struct egress_event {
    __u64 sequence;   /* counts every event, lost ones too */
    __u64 time;       /* boot clock */
    __u64 generation; /* of the policy in force */
    __u64 cgroup;     /* id */
    __u64 count;      /* checks that this event stands for */
    __u64 named;      /* key of the name by which the rule matched; 0: by none */
    struct egress_flow flow;
    __u32 rule; /* index, or EGRESS_UNMATCHED */
    __u32 pid;  /* the thread */
    __u32 tgid;
    __u32 ppid;
    __u8 action; /* egress_event_action */
    __u8 hook;
    __u16 rule_flags;
    __u32 known; /* egress_known */
    __u32 ancestors_used;
    struct egress_file program;
    struct egress_file ancestors[EGRESS_MAX_ANCESTORS];
    char comm[EGRESS_COMMAND_SIZE]; /* the thread's; it chooses this itself */
    char hostname[EGRESS_HOSTNAME_SIZE];
    char path[EGRESS_PATH_SIZE];
    __u32 job; /* id: the process'; 0: none */
};

/* Repeats of a check are folded: the first is an event at once, then one event per interval counts
 * the rest. */
struct egress_fold_key {
    __u8 address[16];
    __u64 program; /* inode */
    __u32 tgid;
    __u32 uid;
    __u32 rule;
    __u16 port;
    __u8 protocol;
    __u8 action;
};
struct egress_fold {
    __u64 sent;  /* when the last event was posted, boot clock */
    __u64 count; /* checks since */
    /* From the last event, for the one that reports repeats with no later check. */
    __u64 generation;
    __u64 cgroup;
    __u64 started; /* of the process, as in egress_process; 0: not in the table */
    __u64 named;
    struct egress_file program;
    __u32 gid;
    __u32 in_container;
    __u32 pid;
    __u32 ppid;
    __u16 rule_flags;
    __u8 type;
    __u8 hook;
    __u32 ends; /* idle: hooks no longer count in it, the next walk removes it */
    char comm[EGRESS_COMMAND_SIZE];
    __u32 job;
    __u32 zero;
};

/* State that all policies share. */
struct egress_config {
    /* Of the policy in force, in slot generation % EGRESS_SLOTS; 0: none, everything passes
     * unjudged. */
    __u64 generation;
    __u64 week_at_boot;    /* second of the local week when the boot clock was 0 */
    __u64 fold_interval;   /* nanoseconds */
    __u64 sequence;        /* of the last event; counted by the hooks */
    __u32 monitor;         /* judge and report, block nothing */
    __u32 mount_namespace; /* of the host: inode number */
    __u32 pid_namespace;
    __u32 abi;
    __u64 losses_told; /* how many EGRESS_LOST_RING a daemon has reported */
    /* The process of a self-test: the hooks refuse its every check, whatever the rules say.
     * Identified by tgid and start, as tgids are reused, and never after `canary_until`. */
    __u32 canary; /* 0: none */
    /* The packet hook can tell which process, if any, is sending. */
    __u32 knows_sender;
    __u64 canary_started;
    __u64 canary_until;   /* boot clock */
    __u64 canary_refused; /* checks since it was marked */
    /* Secret, for egress_file.path, names and more; drawn once. */
    __u64 path_key[2];
    __u64 dns_grace;       /* nanoseconds that a grant outlives its answer */
    __u32 reads_names;     /* EGRESS_READS...: answers are read */
    __u32 jobs;            /* not 0: there are some, and an unknown process may be of one */
    __u32 joining;         /* id of the job that the process joins for which egress_join runs */
    __u32 lists_questions; /* the policy in force does */
    __u32 judges_unix;     /* some of its rules are for sockets of AF_UNIX */
    __u32 net_namespace;   /* of the host: inode number */
};

#define EGRESS_READS_NAMES 1     /* the policy in force has_names */
#define EGRESS_READS_JOB_NAMES 2 /* some job's policy has */

#define EGRESS_UNMATCHED 0xffffffffU
#define EGRESS_BROKEN 0xfffffffeU   /* the tables are inconsistent: counted, never silent */
#define EGRESS_CANARY 0xfffffffdU   /* no rule: a process of a self-test */
#define EGRESS_UNREAD 0xfffffffcU   /* no rule: a packet with a route that cannot be read */
#define EGRESS_CLOSED 0xfffffffbU   /* no rule allows a family whose packets nothing checks */
#define EGRESS_FORGED 0xfffffffaU   /* no rule: a datagram with another socket's source */
#define EGRESS_UNLISTED 0xfffffff8U /* no rule: a question for a name that none lists */
#define EGRESS_OTHERS 0xfffffff7U   /* no rule: another resolver than the approved ones */
#define EGRESS_NO_JOB 0xfffffff9U   /* no rule: its job is over, or not known */
#define EGRESS_SEALED 0xfffffff6U   /* no rule: questions to a resolver that cannot be read */
/* In egress_event.rule: the index is one of the job's rules. */
#define EGRESS_RULE_OF_JOB 0x40000000U
#define EGRESS_CANARY_TIME 10000000000ULL /* the longest that a mark lasts */

#include "daemon/bpf/layout.h"

#endif
