/* Where a process goes: judged when it connects, sends or makes a socket that is not judged later.
 */
#ifndef EGRESS_BPF_FLOW_H
#define EGRESS_BPF_FLOW_H

#include "kernel.h"
#include "maps.h"
#include "socket.h"
#include "tag.h"
#include "verdict.h"

#define EPERM 1
#define ECONNREFUSED 111

#define EGRESS_PASS 1
#define EGRESS_REFUSE 0
#define EGRESS_REFUSE_LOUDLY 2 /* with ECONNREFUSED, where the hook can say it */

/* Which rules the process' program and ancestry select: worked out once per process and policy. Two
 * threads may do so at once; they write the same words. */
static __noinline int select_subject(struct egress_process* process, struct egress_view* view) {
    struct egress_vector chosen;
    if (!process || !view || !view->base) {
        return 0;
    }
    if (!egress_select(view, process, &chosen)) {
        return 0;
    }
    struct egress_subject* subject = &process->subjects[view->slot & (EGRESS_SLOTS - 1)];
    subject->vector = chosen;
    __sync_lock_test_and_set(&subject->generation, view->generation);
    return 1;
}

struct egress_look {
    struct egress_flow flow;
    struct egress_view view;
    struct egress_process* process; /* null: not in the table */
    const struct egress_config* settings;
    __u32 rule;
    __u8 hook;
};

/* Whether the current task is outside of the host's namespaces. Following the pointers takes as
 * long as half of a verdict: only for who asks. */
EGRESS_INLINE int in_container(const struct egress_config* settings) {
    struct task_struct* task = bpf_get_current_task_btf();
    return task->nsproxy->mnt_ns->ns.inum != settings->mount_namespace ||
           pid_namespace_of(task) != settings->pid_namespace;
}

/* Whose look it is, for the event. */
struct egress_author {
    struct task_struct* task; /* null: it does not run just now */
    __u64 cgroup;
    __u32 pid;
    __u32 tgid;
    __u32 here; /* it is the current task, and nobody has asked yet where it is */
};

/* What there is to tell; inlined, as the stack is small. */
struct egress_news {
    const struct egress_flow* flow;
    const struct egress_process* process; /* null: not in the table */
    const struct egress_config* settings;
    __u64 generation;
    __u32 rule;
    __u32 action;
    __u32 flags;
    __u8 hook;
};

EGRESS_INLINE int may_fold(const struct egress_news* news, __u32 tgid, __u64 now, __u64* count) {
    struct egress_fold_key key = {
        .program = news->process ? news->process->program.inode : 0,
        .tgid = tgid,
        .uid = news->flow->uid,
        .rule = news->rule,
        .port = news->flow->port,
        .protocol = news->flow->protocol,
        .action = news->action,
    };
    __builtin_memcpy(key.address, news->flow->address, sizeof key.address);
    struct egress_fold* fold = bpf_map_lookup_elem(&folds, &key);
    if (!fold) {
        struct egress_fold first = {.sent = now, .count = 0};
        bpf_map_update_elem(&folds, &key, &first, BPF_NOEXIST);
        *count = 1;
        return 0;
    }
    const __u64 sent = fold->sent;
    if (now - sent < news->settings->fold_interval ||
        __sync_val_compare_and_swap(&fold->sent, sent, now) != sent) {
        __sync_fetch_and_add(&fold->count, 1);
        return 1;
    }
    *count = __sync_lock_test_and_set(&fold->count, 0) + 1;
    return 0;
}

EGRESS_INLINE void emit_as(const struct egress_news* news, const struct egress_author* author) {
    const __u64 now = bpf_ktime_get_boot_ns();
    __u64 count = 1;
    if (may_fold(news, author->tgid, now, &count)) {
        return;
    }
    const __u64 number = __sync_fetch_and_add((__u64*)&news->settings->sequence, 1) + 1;
    struct egress_event* event = bpf_ringbuf_reserve(&events, sizeof *event, 0);
    if (!event) {
        egress_lose(EGRESS_LOST_RING);
        return;
    }
    event->sequence = number;
    event->time = now;
    event->generation = news->generation;
    event->cgroup = author->cgroup;
    event->count = count;
    event->flow = *news->flow;
    if (author->here) {
        event->flow.in_container = in_container(news->settings);
    }
    event->rule = news->rule;
    event->pid = author->pid;
    event->tgid = author->tgid;
    event->action = news->action;
    event->hook = news->hook;
    event->rule_flags = news->flags;
    event->known = news->process != 0;
    event->ppid = 0;
    event->ancestors_used = 0;
    __builtin_memset(event->path, 0, sizeof event->path);
    __builtin_memset(event->comm, 0, sizeof event->comm);
    __builtin_memset(event->hostname, 0, sizeof event->hostname);
    const struct egress_process* const process = news->process;
    if (process) {
        event->ppid = process->ppid;
        event->program = process->program;
        event->ancestors_used = process->ancestors_used;
        __builtin_memcpy(event->ancestors, process->ancestors, sizeof event->ancestors);
        __builtin_memcpy(event->path, process->path.path, sizeof event->path);
        __builtin_memcpy(event->comm, process->command, sizeof event->comm);
    }
    struct task_struct* const task = author->task;
    if (task) {
        BPF_CORE_READ_INTO(&event->comm, task, comm);
        BPF_CORE_READ_INTO(&event->hostname, task, nsproxy, uts_ns, name.nodename);
    }
    bpf_ringbuf_submit(event, 0);
}

static __noinline int emit(struct egress_look* look, __u32 action, __u32 flags) {
    if (!look || !look->settings) {
        return 0;
    }
    const __u64 ids = bpf_get_current_pid_tgid();
    const struct egress_news news = {
        .flow = &look->flow,
        .process = look->process,
        .settings = look->settings,
        .generation = look->view.generation,
        .rule = look->rule,
        .action = action,
        .flags = flags,
        .hook = look->hook,
    };
    const struct egress_author author = {
        .task = (void*)bpf_get_current_task(),
        .cgroup = bpf_get_current_cgroup_id(),
        .pid = (__u32)ids,
        .tgid = ids >> 32,
        .here = 1,
    };
    emit_as(&news, &author);
    return 0;
}

/* Fills what the current task tells; false: nothing is in force. */
EGRESS_INLINE int look_up(struct egress_look* look) {
    const __u32 zero = 0;
    look->settings = bpf_map_lookup_elem(&config, &zero);
    if (!look->settings) {
        return 0;
    }
    /* Read once: everything below belongs to this policy, whatever is switched meanwhile. */
    look->view.generation = *(volatile const __u64*)&look->settings->generation;
    if (!look->view.generation) {
        return 0;
    }
    look->view.slot = look->view.generation & (EGRESS_SLOTS - 1);
    look->view.base = EGRESS_FIND(&look->view, bases, &zero);
    if (!look->view.base) {
        egress_lose(EGRESS_LOST_BROKEN);
        return 0;
    }
    const __u64 owner = bpf_get_current_uid_gid();
    const __u32 tgid = bpf_get_current_pid_tgid() >> 32;
    look->flow.uid = (__u32)owner;
    look->flow.gid = owner >> 32;
    look->flow.in_container = look->view.base->has_places ? in_container(look->settings) : 0;
    look->process = bpf_map_lookup_elem(&processes, &tgid);
    return 1;
}

EGRESS_INLINE const struct egress_vector* cgroup_of(const struct egress_view* view) {
    if (view->base->has_cgroups) {
        /* The innermost that a rule names knows the rules of those around it. */
        for (int level = EGRESS_CGROUP_LEVELS - 1; level >= 0; --level) {
            __u64 id = bpf_get_current_ancestor_cgroup_id(level);
            if (id) {
                const __u32 index = EGRESS_FIND_INDEX(view, cgroups, &id);
                if (index) {
                    return vector_at(view, index);
                }
            }
        }
    }
    return &view->base->any_cgroup;
}

/* The process' rules under this policy. Not called from judge(): the stack is small. */
EGRESS_INLINE void prepare_subject(struct egress_look* look) {
    struct egress_process* process = look->process;
    if (process && process->subjects[look->view.slot & (EGRESS_SLOTS - 1)].generation !=
                       look->view.generation) {
        select_subject(process, &look->view);
    }
}

EGRESS_INLINE const struct egress_vector* subject_of(const struct egress_process* process,
                                                     const struct egress_view* view) {
    if (process) {
        const struct egress_subject* subject = &process->subjects[view->slot & (EGRESS_SLOTS - 1)];
        if (subject->generation == view->generation) {
            return &subject->vector;
        }
        egress_lose(EGRESS_LOST_BROKEN);
    }
    return &view->base->stranger;
}

/* Whether this is the process that tests the hooks. All others pay for one comparison. */
EGRESS_INLINE int is_canary(const struct egress_config* settings) {
    if (settings->canary != bpf_get_current_pid_tgid() >> 32) {
        return 0;
    }
    struct task_struct* task = (void*)bpf_get_current_task();
    return BPF_CORE_READ(task, group_leader, start_boottime) == settings->canary_started &&
           bpf_ktime_get_boot_ns() < settings->canary_until;
}

/* What the rule found means here and now. */
struct egress_outcome {
    int verdict;
    int tell; /* there is an event */
    __u32 action;
    __u32 flags;  /* of the rule */
    __u32 denies; /* the rule, whatever comes of it */
};

EGRESS_INLINE struct egress_outcome weigh(const struct egress_base* base, __u32 index,
                                          const struct egress_config* settings) {
    struct egress_outcome out = {EGRESS_PASS, 0, EGRESS_EVENT_ALLOWED, 0, 0};
    if (index == EGRESS_BROKEN) {
        egress_lose(EGRESS_LOST_BROKEN);
        return out;
    }
    if (index == EGRESS_CANARY) {
        __sync_fetch_and_add((__u64*)&settings->canary_refused, 1);
        out.verdict = EGRESS_REFUSE;
        out.tell = 1;
        out.action = EGRESS_EVENT_BLOCKED;
        out.denies = 1;
        return out;
    }
    if (index >= EGRESS_MAX_RULES) {
        out.tell = 1;
        return out;
    }
    const struct egress_rule* rule = &base->rules[index];
    const int refused = rule->verdict != EGRESS_ALLOW;
    out.flags = rule->flags;
    out.denies = refused;
    const int only_seen = (out.flags & EGRESS_RULE_AUDIT) || (refused && settings->monitor);
    out.tell = !(out.flags & EGRESS_RULE_QUIET) &&
               (refused || (out.flags & (EGRESS_RULE_AUDIT | EGRESS_RULE_LOG)));
    out.action = only_seen ? EGRESS_EVENT_MONITOR
                 : refused ? EGRESS_EVENT_BLOCKED
                           : EGRESS_EVENT_ALLOWED;
    if (refused && !only_seen) {
        out.verdict = rule->verdict == EGRESS_REJECT ? EGRESS_REFUSE_LOUDLY : EGRESS_REFUSE;
    }
    return out;
}

EGRESS_INLINE void put_v4(struct egress_flow* flow, __u32 address) {
    __u32* words = (__u32*)flow->address;
    words[0] = 0;
    words[1] = 0;
    words[2] = bpf_htonl(0xffff);
    words[3] =
        address ? address : bpf_htonl(0x7f000001); /* the kernel connects 0.0.0.0 to itself */
}

EGRESS_INLINE void put_v6(struct egress_flow* flow, __u32 a, __u32 b, __u32 c, __u32 d) {
    __u32* words = (__u32*)flow->address;
    if (a == 0 && b == 0 && c == bpf_htonl(0xffff)) {
        put_v4(flow, d);
        return;
    }
    words[0] = a;
    words[1] = b;
    words[2] = c;
    words[3] = a | b | c | d ? d : bpf_htonl(1);
}

static __noinline int judge(struct egress_look* look) {
    if (!look || !look->view.base || !look->settings) {
        return EGRESS_PASS;
    }
    struct egress_question question;
    egress_ask(&look->view, &look->flow, subject_of(look->process, &look->view),
               cgroup_of(&look->view), &question);
    if (look->hook == EGRESS_HOOK_CREATE) {
        question.destination = &look->view.base->at_create;
        question.port = question.destination;
    }
    const __u64 now = look->view.base->has_times ? bpf_ktime_get_boot_ns() : 0;
    look->rule = egress_first(&look->view, &question, now, look->settings->week_at_boot);
    if (is_canary(look->settings)) {
        look->rule = EGRESS_CANARY;
    }
    const struct egress_outcome outcome = weigh(look->view.base, look->rule, look->settings);
    if (outcome.tell) {
        emit(look, outcome.action, outcome.flags);
    }
    if (outcome.verdict == EGRESS_REFUSE_LOUDLY) {
        bpf_set_retval(-ECONNREFUSED);
        return EGRESS_REFUSE;
    }
    return outcome.verdict;
}

/* Keeps with a socket who has it, for its packets: `passed` under the look's policy, or not judged.
 * Where nothing can be kept it would escape the next policy, and is refused. */
EGRESS_INLINE int keep_owner(struct egress_socket* kept, const struct egress_look* look, int passed,
                             int stream) {
    struct task_struct* task = bpf_get_current_task_btf();
    const struct egress_config* settings = look->settings;
    if (!settings) {
        return EGRESS_PASS;
    }
    if (!kept) {
        egress_lose(EGRESS_LOST_SOCKET);
        return settings->monitor || !look->view.generation ? EGRESS_PASS : EGRESS_REFUSE;
    }
    const __u64 ids = bpf_get_current_uid_gid();
    kept->started = task->group_leader->start_boottime;
    kept->exec_id = task->self_exec_id;
    kept->tgid = bpf_get_current_pid_tgid() >> 32;
    kept->uid = (__u32)ids;
    kept->gid = ids >> 32;
    /* Datagrams leave in their sender's own time, and he is asked then. */
    kept->in_container =
        stream || !settings->knows_sender ? in_container(settings) : look->flow.in_container;
    kept->checked = bpf_ktime_get_coarse_ns();
    kept->passed = passed ? egress_ticket(kept->started, kept->exec_id, look->view.generation) : 0;
    return EGRESS_PASS;
}

static __noinline int keep_connection(struct bpf_sock_addr* ctx, struct egress_look* look,
                                      int passed) {
    struct bpf_sock* sk = ctx->sk;
    const __u32 protocol = ctx->protocol;
    if (!look || !sk || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)) {
        return EGRESS_PASS;
    }
    return keep_owner(bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE), look,
                      passed, protocol == IPPROTO_TCP);
}

EGRESS_INLINE int judge_address(struct bpf_sock_addr* ctx, __u8 hook, int v6) {
    const int connects = hook == EGRESS_HOOK_CONNECT4 || hook == EGRESS_HOOK_CONNECT6;
    struct egress_look look = {.hook = hook};
    if (!look_up(&look)) {
        return connects ? keep_connection(ctx, &look, 0) : EGRESS_PASS;
    }
    if (v6) {
        put_v6(&look.flow, ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]);
    } else {
        put_v4(&look.flow, ctx->user_ip4);
    }
    const __u32 protocol = ctx->protocol;
    look.flow.port = bpf_ntohs((__u16)ctx->user_port);
    look.flow.type = ctx->type;
    look.flow.protocol = protocol == IPPROTO_MPTCP ? IPPROTO_TCP : protocol;
    egress_count(&looks, hook);
    prepare_subject(&look);
    if (!judge(&look)) {
        return EGRESS_REFUSE;
    }
    return connects ? keep_connection(ctx, &look, 1) : EGRESS_PASS;
}

SEC("cgroup/connect4")
int egress_connect4(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_CONNECT4, 0);
}

SEC("cgroup/connect6")
int egress_connect6(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_CONNECT6, 1);
}

SEC("cgroup/sendmsg4")
int egress_sendmsg4(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_SENDMSG4, 0);
}

SEC("cgroup/sendmsg6")
int egress_sendmsg6(struct bpf_sock_addr* ctx) {
    return judge_address(ctx, EGRESS_HOOK_SENDMSG6, 1);
}

/* What is neither TCP nor UDP is not seen by the hooks above: judged by its kind here, and by its
 * packets. */
SEC("cgroup/sock_create")
int egress_create(struct bpf_sock* ctx) {
    struct egress_look look = {.hook = EGRESS_HOOK_CREATE};
    const __u32 protocol = ctx->protocol;
    if (ctx->type != SOCK_RAW &&
        (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_MPTCP)) {
        return EGRESS_PASS;
    }
    const int open = look_up(&look);
    struct egress_socket* kept = bpf_sk_storage_get(&sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (keep_owner(kept, &look, 0, 1) == EGRESS_REFUSE) {
        return EGRESS_REFUSE;
    }
    if (!open) {
        return EGRESS_PASS;
    }
    if (ctx->family == AF_INET) {
        put_v4(&look.flow,
               bpf_htonl(0xffffffff)); /* no destination; the family is for the reader */
    }
    look.flow.type = ctx->type;
    look.flow.protocol = protocol;
    egress_count(&looks, EGRESS_HOOK_CREATE);
    prepare_subject(&look);
    return judge(&look);
}

#endif
