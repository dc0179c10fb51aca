/* What the kernel half and the daemon share: sizes, tables of a policy, process state, events.
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
 * adopted, but go on beside until they are replaced. */
#define EGRESS_ABI 6

#define EGRESS_MAX_RULES 1024
#define EGRESS_WORDS (EGRESS_MAX_RULES / 64)
#define EGRESS_MAX_ANCESTORS 16
#define EGRESS_PATH_SIZE                                                                           \
    252 /* of a path with its terminator; with a device it fills a key of a trie */
#define EGRESS_COMMAND_SIZE 16
#define EGRESS_MAX_WINDOWS 16 /* spans of a week in one rule */
#define EGRESS_SLOTS 2 /* policies that may be there at once: the one in force and the next */

/* A set of rules, one bit each, the first rule at bit 0 of words[0]. */
struct egress_vector {
    __u64 any; /* bit w: words[w] is not zero */
    __u64 words[EGRESS_WORDS];
};

/* A file, as exec and the daemon both have it named by files.h. An inode number alone does not do:
 * a freed one is given out again, the subvolumes of btrfs count from the same number, and the
 * layers of overlay each bring their own. The generation tells those apart; where it does not (0,
 * btrfs, overlay) the path inside the file system does. */
struct egress_file {
    __u64 inode;
    __u32 device; /* of the super block, as mountinfo shows it */
    __u32 generation;
    __u64 path; /* of the owner, and a keyed hash of the path inside the file system where the
                   generation does not suffice */
};
#define EGRESS_NO_PATH (~0ULL) /* the path is needed and not known: such a file equals no other */

/* An entry of v6_top is the index of a vector and perhaps this. */
#define EGRESS_FINER 0x40000000U /* there are longer prefixes below: look further */
#define EGRESS_INDEX 0x3fffffffU

/* An entry of v4_top is the index of a vector, or, with the uppermost bit, the runs of the
 * addresses below: the number of the first structure of them, how many follow it, and what the one
 * in the middle (the second of two) begins with: mostly there is nothing more to be looked at. */
#define EGRESS_RUNS (1ULL << 63)
#define EGRESS_RUNS_MORE(entry) ((__u32)((entry) >> 32) & 0x7fff)
#define EGRESS_RUNS_MIDDLE(entry) ((__u32)((entry) >> 47) & 0xffff)
#define EGRESS_RUNS_SIZE 21
#define EGRESS_RUNS_VECTORS 4   /* different ones in a structure */
#define EGRESS_RUNS_STEPS 14    /* halvings of the most structures of one entry, 16,384 */
#define EGRESS_RUNS_INDEX 65535 /* the greatest index that fits */

#define EGRESS_EMPTY 1 /* index of an empty vector that a table may name; 0 is "not there" */

#define EGRESS_TYPES 8
#define EGRESS_PROTOCOLS 256

enum egress_rule_verdict { EGRESS_ALLOW = 0, EGRESS_DENY = 1, EGRESS_REJECT = 2 };

enum egress_rule_flag {
    EGRESS_RULE_AUDIT = 1, /* record, do not enforce */
    EGRESS_RULE_LOG = 2,   /* an event for what is allowed, too */
    EGRESS_RULE_QUIET = 4, /* no event */
    EGRESS_RULE_ALARM = 8,
    EGRESS_RULE_TIMED = 16, /* `until` and `windows` say when it is in force */
};

/* Seconds of the week, Monday 00:00 local time is 0; `to` is not included. */
struct egress_window {
    __u32 from;
    __u32 to;
};

struct egress_rule {
    __u64 until; /* boot clock; 0: no end */
    __u32 line;  /* number of the rule among all, from 1: how events name it */
    __u16 flags;
    __u8 verdict;
    __u8 windows_used;
    struct egress_window windows[EGRESS_MAX_WINDOWS];
};

/* What of a policy has a fixed size. An index is one into the policy's vectors. */
struct egress_base {
    __u64 generation;
    __u32 rules_used;
    __u32 has_cgroups;    /* some rule asks for one */
    __u32 has_lineage;    /* some rule asks for parent or under */
    __u32 has_places;     /* some rule asks for container or host */
    __u32 has_trees;      /* some rule names a program by path, or a directory tree */
    __u32 has_inside;     /* some rule names one by the path that exec recorded */
    __u32 has_units;      /* some rule names a unit */
    __u32 has_uids;       /* some rule names a user */
    __u32 has_gids;       /* some rule names a group */
    __u32 has_ranges;     /* some of those users or groups have subordinate ids */
    __u32 has_times;      /* some rule has windows or an end */
    __u32 suspect_cgroup; /* index: those, and every refusal: for a cgroup that is not known */
    __u32 at_create;      /* index: rules that may decide when only the kind of socket is known */
    __u32 stranger;       /* index: rules that name neither program nor ancestry */
    __u32 suspect;        /* index: those, and every refusal: for a process that is not known */
    __u32 at_closed;      /* index: the same where its packets can't be judged either */
    struct egress_vector refusals;    /* rules that refuse */
    struct egress_vector any_program; /* rules that name no program */
    struct egress_vector any_parent;
    struct egress_vector any_under;
    struct egress_vector places[2];  /* rules that may match on the host; in a container */
    struct egress_vector other_uids; /* rules for users that no rule names */
    struct egress_vector other_gids;
    struct egress_vector any_cgroup; /* rules that ask for none */
    struct egress_rule rules[EGRESS_MAX_RULES];
    __u32 protocols[EGRESS_TYPES][EGRESS_PROTOCOLS]; /* indexes */
    __u32 ports[65536];                              /* indexes */
    __u64 v4_top[65536];                             /* by the first 16 bits: index, or RUNS */
    __u32 v6_top[65536]; /* by the first 16 bits: index, perhaps FINER */
};

/* Runs of IPv4 addresses with the same vector, in order, by the last 16 bits of their first one; as
 * large as what a processor fetches at once. Three bits of `codes` for each, from the lowest on:
 * which of the vectors, and EGRESS_RUN_SINGLE where it is one address, behind which vectors[0] goes
 * on. Most lists are of hosts, and each takes one run so. The first run of an entry's first
 * structure begins at 0; what is not used at the end is runs from 65535 on. */
#define EGRESS_RUN_SINGLE 4
struct egress_runs {
    __u16 first[EGRESS_RUNS_SIZE];
    __u16 zero;
    __u16 vectors[EGRESS_RUNS_VECTORS];
    __u32 zeros;
    __u64 codes;
};

/* Keys of longest-prefix tables; `bits` as bpf wants it, in front. */
struct egress_prefix6 {
    __u32 bits;
    __u8 address[16];
};
/* A path inside a file system, which no mount of a process' own changes: of a tree up to its '/',
 * of a program with its terminator; zero-padded. `bits` counts those of the device, too. Some
 * numbers that no device has say what else the path is. */
struct egress_tree {
    __u32 bits;
    __u32 device;
    char path[EGRESS_PATH_SIZE];
};
#define EGRESS_DEVICE_BITS 32
#define EGRESS_INSIDE 0xffffffffU  /* what exec recorded, as the process' root shows it */
#define EGRESS_CGROUPS 0xfffffffeU /* of a cgroup2, ending in '/' */
#define EGRESS_FOREIGN 0xfffffffcU /* any file system that a user namespace has mounted */
#define EGRESS_UNITS 0xfffffffdU   /* name of one, with its terminator, or "name@" */

struct egress_path_rules {
    __u32 rules; /* index */
    /* Index. Of a device alone: refusals that name something on it, for a file whose place on it is
     * not known. Of a unit: refusals, for a cgroup whose name a user has chosen. */
    __u32 uncertain;
};

/* Key of the longest-prefix tables of ids; the id in network byte order. */
struct egress_id_range {
    __u32 bits;
    __u32 id;
};

enum egress_process_flag {
    EGRESS_PROCESS_HOST_PATH = 1, /* `path` was walked in the host's own mount namespace */
    EGRESS_PROCESS_SWEPT = 2, /* older than the hooks: path and command are what it says itself */
    EGRESS_PROCESS_LOST_PLACE = 4,    /* `place` is not known beyond the device */
    EGRESS_PROCESS_LOST_PATH = 8,     /* `path` is not known */
    EGRESS_PROCESS_DELETED = 16,      /* the file had no name any more when it was executed */
    EGRESS_PROCESS_LOST_LINEAGE = 32, /* there are or may be ancestors that are not in the list */
};

/* The rules that a process' program and ancestry select, under one generation and for one program.
 */
struct egress_subject {
    __u64 generation; /* 0: not worked out; written last */
    __u32 epoch;      /* of the process, as it was read before */
    __u32 zero;
    struct egress_vector vector;
};

#define EGRESS_SUBJECTS (2 * EGRESS_SLOTS) /* of this program and of the one before */

/* Rules of the cgroups by name: of one under one generation. */
struct egress_cgroup_key {
    __u64 id;
    __u64 generation;
};

/* What files.h says of a descriptor of the daemon's. */
struct egress_named {
    __u32 fd;
    __u32 flags; /* EGRESS_PROCESS_LOST_PLACE, _DELETED */
    struct egress_file file;
    struct egress_tree place;
    __u32 zero;
};

/* By tgid. Filled at fork and exec, removed when the last thread ends. */
struct egress_process {
    __u64
        started; /* start of the thread group's leader, boot clock: tells tgids used again apart */
    __u64 exec_id; /* the leader's self_exec_id */
    struct egress_file program;
    struct egress_file ancestors[EGRESS_MAX_ANCESTORS]; /* programs; 0 is who forked it */
    __u32 ancestors_used;
    __u32 tgid;
    __u32 ppid;                        /* tgid of who forked it */
    __u32 flags;                       /* egress_process_flag */
    char command[EGRESS_COMMAND_SIZE]; /* last component of what exec was given */
    __u32 epoch;                       /* changes with each exec; odd while one is under way */
    __u32 zero;
    struct egress_tree place; /* of the program's file inside its file system */
    struct egress_tree path;  /* as exec recorded it; EGRESS_INSIDE */
    struct egress_subject subjects[EGRESS_SUBJECTS];
};

/* By socket: who has it, and whether its packets are let through. Of those that connect, and of
 * those that no other hook sees send. */
struct egress_socket {
    __u64
        passed; /* what let it through: egress_ticket() of a process and a generation; 0: nothing */
    __u64 checked; /* when, in ticks of the kernel */
    __u64 started; /* as of struct egress_process, of who used it last */
    __u64 exec_id;
    __u32 tgid;
    __u32 uid; /* as in struct egress_flow */
    __u32 gid;
    __u8 in_container;
    __u8 wrote;  /* the owner may have bytes in the socket's queue */
    __u8 others; /* others may, too: struct egress_writers */
    __u8 moved;  /* UDP: connected more than once, so what is on its way may be for a peer before */
    __u64 cgroup;    /* id: where the owner was then */
    __u64 cgroup_at; /* address; only with that id it is still the same */
};

/* By TCP socket with bytes of several processes in its queue: those but the owner of the socket. */
#define EGRESS_WRITERS 16
struct egress_writer {
    struct egress_socket who;
    __u32 end; /* number of the first byte that is another's */
    __u32 used;
};
struct egress_writers {
    struct egress_writer each[EGRESS_WRITERS];
    __u64
        more_passed; /* generation that let all of those through that found no place; 0: not all */
    __u32 more_end;
    __u32 more; /* there are such */
};

/* What a hook asks. */
struct egress_flow {
    __u8 address[16]; /* network byte order; IPv4 mapped */
    __u16 port;
    __u8 type;     /* SOCK_* */
    __u8 protocol; /* IPPROTO_* */
    __u32 uid;     /* real, as the initial user namespace numbers it */
    __u32 gid;
    __u32 in_container;
};

/* What one look of a hook led to; the daemon folds nothing more. */
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
    EGRESS_HOOKS = 6,
};

/* Why an event is not there. */
enum egress_loss {
    EGRESS_LOST_RING = 0,    /* the ring was full */
    EGRESS_LOST_PROCESS = 1, /* a process could not be taken into the table */
    EGRESS_LOST_BROKEN = 2,  /* the tables did not hang together: the flow was refused */
    EGRESS_LOST_SOCKET = 3,  /* nothing could be kept with a socket: it was refused */
    EGRESS_LOST_SUSPECT = 4, /* a flow of a process or cgroup that is not known: judged strictly */
    EGRESS_LOST_FOLD = 5,    /* there was no room to fold a repeat: it became an event of its own */
    EGRESS_LOSSES = 6,
};

#define EGRESS_HOSTNAME_SIZE 65

enum egress_known {
    EGRESS_KNOWN_NOTHING = 0, /* the process is not in the table: comm is the thread's own word */
    EGRESS_KNOWN_PROCESS = 1,
    EGRESS_KNOWN_PROGRAM = 2, /* it has ended since; its program is known, its ancestors are not */
};

struct egress_event {
    __u64 sequence;   /* counts every event, lost ones too */
    __u64 time;       /* boot clock */
    __u64 generation; /* of the policy that decided */
    __u64 cgroup;     /* id */
    __u64 count;      /* looks that this event stands for */
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
    char comm[EGRESS_COMMAND_SIZE]; /* the thread's; it chooses it itself */
    char hostname[EGRESS_HOSTNAME_SIZE];
    char path[EGRESS_PATH_SIZE];
};

/* Repeats of the same look are one event: the first at once, then a count per interval. */
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
    __u64 sent;  /* when an event was made last, boot clock */
    __u64 count; /* looks since */
    /* As the last event had it, for the one that tells of looks which no other follows. */
    __u64 generation;
    __u64 cgroup;
    __u64 started; /* of the process, as in struct egress_process; 0: it was not in the table */
    struct egress_file program;
    __u32 gid;
    __u32 in_container;
    __u32 pid;
    __u32 ppid;
    __u16 rule_flags;
    __u8 type;
    __u8 hook;
    __u32 ends; /* idle: the next walk removes it, and nothing is counted in it any more */
    char comm[EGRESS_COMMAND_SIZE];
};

/* What is the same for all policies. */
struct egress_config {
    __u64 generation;      /* of the policy in force, which is in slot generation % EGRESS_SLOTS;
                              0: none, everything passes unjudged */
    __u64 week_at_boot;    /* second of the local week at zero of the boot clock */
    __u64 fold_interval;   /* nanoseconds */
    __u64 sequence;        /* of the last event; counted by the hooks */
    __u32 monitor;         /* judge and record, block nothing */
    __u32 mount_namespace; /* of the host: inode number */
    __u32 pid_namespace;
    __u32 abi;
    __u64 losses_told; /* of EGRESS_LOST_RING, those of which a daemon has told */
    /* The process that tests itself, of which every look is refused whatever the rules say: by tgid
     * and start, as tgids are used again, and never for longer than `canary_until`. */
    __u32 canary;       /* 0: none */
    __u32 knows_sender; /* the packets' hook sees whether a process sends just now, and which */
    __u64 canary_started;
    __u64 canary_until;   /* boot clock */
    __u64 canary_refused; /* looks since it was marked */
    __u64 path_key[2];    /* secret, of egress_file.path; drawn once */
};

#define EGRESS_UNMATCHED 0xffffffffU
#define EGRESS_BROKEN 0xfffffffeU /* the tables do not hang together: counted, never silent */
#define EGRESS_CANARY 0xfffffffdU /* no rule: a process that tests the hooks */
#define EGRESS_UNREAD 0xfffffffcU /* no rule: a packet with a route that cannot be read */
#define EGRESS_CLOSED 0xfffffffbU /* no rule lets a family through whose packets nothing judges */
#define EGRESS_CANARY_TIME 10000000000ULL /* the longest that a process stays one */

#endif
