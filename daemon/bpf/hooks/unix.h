/* Sockets of AF_UNIX that a process connects to or sends datagrams to: another program could act
 * for it, such as a container engine. So a job reaches those only that it lists; others reach what
 * the lines for such sockets leave to them.
 *
 * The kernel calls the hook before it follows a path: only the text is known, and what it leads to
 * depends on links, on mounts and on the directory that it starts at. So a text counts only if it
 * is absolute and if the process sees what the host sees; the daemon takes no path into the list
 * that passes a directory which others than root can write.
 *
 * libbpf 1.1 has no names for these hooks: the loader gives the programs their attach types.
 */
#ifndef EGRESS_BPF_UNIX_H
#define EGRESS_BPF_UNIX_H

#include "decide.h"
#include "flow.h"
#include "job.h"
#include "judge.h"
#include "root.h"

#include "daemon/bpf/unix_name.h"

#define EGRESS_UNIX_LONGEST 108 /* sun_path */

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, EGRESS_MAX_UNIX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct egress_unix_rule);
    __type(value, __u32);
} unix_rules SEC(".maps");

/* What the events' hashes stand for. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 4096);
    __type(key, __u64);
    __type(value, struct egress_unix_name);
} unix_names SEC(".maps");

/* Reads the name as the kernel will: a path ends at its NUL, another name with the address. */
static __noinline int read_unix_name(struct bpf_sock_addr* ctx, struct egress_unix_name* name) {
    if (!name) {
        return 0;
    }
    __builtin_memset(name, 0, sizeof *name);
    struct bpf_sock_addr_kern* const kern = (void*)ctx;
    const __u64 from = (__u64)BPF_CORE_READ(kern, uaddr) + sizeof(__u16);
    const __u32 size = BPF_CORE_READ(kern, uaddrlen) - (__u32)sizeof(__u16);
    if (size == 0 || size > EGRESS_UNIX_LONGEST ||
        bpf_probe_read_kernel(name->text, size, (void*)from)) {
        return 0;
    }
    name->abstract = name->text[0] == 0;
    name->length = size;
    if (name->abstract) {
        return 1;
    }
    char whole[EGRESS_UNIX_SIZE] = {};
    const long read = bpf_probe_read_kernel_str(whole, size + 1, name->text);
    if (read <= 0) {
        return 0;
    }
    name->length = (__u32)read - 1;
    __builtin_memcpy(name->text, whole, sizeof name->text);
    return 1;
}

/* Stands for the name in events. */
__noinline __u64 egress_hash_of_unix(const struct egress_unix_name* name) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    return settings && name ? egress_unix_hash(settings->path_key, name) : 0;
}

/* Whether the name means to the process what it means to the host. */
static __noinline int is_proven(const struct egress_unix_name* name) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    return name && (name->abstract || (name->text[0] == '/' && sees_host(settings)));
}

static __noinline __u32 find_unix_rule(__u32 job, const struct egress_unix_name* name) {
    struct egress_unix_rule key = {.job = job};
    if (!name) {
        return 0;
    }
    key.name = *name;
    const __u32* const found = bpf_map_lookup_elem(&unix_rules, &key);
    return found ? *found : 0;
}

/* By egress_unix; 0: no rule names it. */
static __noinline __u32 unix_rule(__u32 job, const struct egress_unix_name* name) {
    if (!is_proven(name)) {
        return 0;
    }
    const __u32 own = find_unix_rule(job, name);
    return own ? own : find_unix_rule(0, name);
}

/* The last line of a job's rules refuses what no other allows. */
static __noinline __u32 last_rule(__u32 job) {
    struct egress_view view = {};
    if (!open_view(&view, EGRESS_JOB_GENERATION((__u64)job))) {
        return EGRESS_NO_JOB;
    }
    return (view.base->rules_used - 1) | EGRESS_RULE_OF_JOB;
}

/* Reports and counts the refusal; returns the verdict. */
static __noinline int refuse_unix(struct egress_case* found, struct egress_unix_name* name) {
    const __u32 zero = 0;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!found || !name || !settings) {
        return EGRESS_REFUSE;
    }
    struct egress_job* const job = live_job(found->owner.job);
    int passes = settings->monitor != 0;
    found->rule = EGRESS_NO_JOB;
    if (job) {
        __sync_fetch_and_add(&job->refused, 1);
        passes |= (job->flags & EGRESS_JOB_LEARNS) != 0;
        found->rule = last_rule(found->owner.job);
    } else {
        egress_lose(EGRESS_LOST_SUSPECT);
    }
    const __u64 hash = egress_hash_of_unix(name);
    bpf_map_update_elem(&unix_names, &hash, name, BPF_ANY);
    __builtin_memcpy(&found->flow.address[8], &hash, sizeof hash);
    found->action = passes ? EGRESS_EVENT_MONITOR : EGRESS_EVENT_BLOCKED;
    egress_place(found);
    egress_tell(found);
    return passes ? EGRESS_PASS : EGRESS_REFUSE;
}

/* By the list of its job. */
static __noinline int judge_unix_of_job(struct bpf_sock_addr* ctx, struct egress_case* found) {
    const __u32 zero = 0;
    struct egress_unix_name name;
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!found || !settings) {
        return EGRESS_REFUSE;
    }
    const struct egress_job* const job = live_job(found->owner.job);
    if (job && job->flags & EGRESS_JOB_UNIX) {
        return EGRESS_PASS;
    }
    const int read = read_unix_name(ctx, &name);
    const __u32 rule = job && read ? unix_rule(found->owner.job, &name) : 0;
    if (rule == EGRESS_UNIX_ALLOWED) {
        return EGRESS_PASS;
    }
    if (rule == EGRESS_UNIX_SILENT) {
        return settings->monitor || job->flags & EGRESS_JOB_LEARNS ? EGRESS_PASS : EGRESS_REFUSE;
    }
    return refuse_unix(found, &name);
}

/* Turns the name into the flow's destination. */
static __noinline int place_unix(struct bpf_sock_addr* ctx, struct egress_case* found) {
    struct egress_unix_name name;
    if (!found) {
        return 0;
    }
    const int read = read_unix_name(ctx, &name);
    egress_put_unix(found->flow.address, egress_hash_of_unix(&name), read && is_proven(&name));
    found->flow.type = EGRESS_TYPE_UNIX;
    found->flow.protocol = ctx->type;
    return 0;
}

/* Keeps what the event's hash stands for. */
static __noinline int keep_unix_name(struct bpf_sock_addr* ctx) {
    struct egress_unix_name name;
    read_unix_name(ctx, &name);
    const __u64 hash = egress_hash_of_unix(&name);
    bpf_map_update_elem(&unix_names, &hash, &name, BPF_ANY);
    return 0;
}

/* By the host's rules, of which those that name sockets of AF_UNIX may match. A self-test tells the
 * daemon what it has found by such a socket. */
EGRESS_INLINE int judge_unix_by_rules(struct bpf_sock_addr* ctx, struct egress_case* found,
                                      const struct egress_config* settings) {
    if (is_canary(settings, &found->owner)) {
        return EGRESS_PASS;
    }
    place_unix(ctx, found);
    egress_place(found);
    decide_by(found);
    found->flow.type = found->flow.protocol;
    found->flow.protocol = 0;
    if (found->post && found->rule != EGRESS_UNMATCHED) {
        keep_unix_name(ctx);
        egress_tell(found);
    }
    return is_refused(found) ? EGRESS_REFUSE : EGRESS_PASS;
}

EGRESS_INLINE int judge_unix(struct bpf_sock_addr* ctx) {
    const __u32 zero = 0;
    struct egress_case found = {.hook = EGRESS_HOOK_UNIX};
    const struct egress_config* settings = bpf_map_lookup_elem(&config, &zero);
    if (!settings || (!settings->jobs && !settings->judges_unix) || !begin_case(&found, settings) ||
        (!found.owner.job && !settings->judges_unix)) {
        return EGRESS_PASS;
    }
    egress_count(&looks, EGRESS_HOOK_UNIX);
    found.flow.type = ctx->type;
    if (found.owner.job) {
        const int verdict = judge_unix_of_job(ctx, &found);
        const struct egress_job* const job = live_job(found.owner.job);
        if (verdict != EGRESS_PASS || !job || job->flags & EGRESS_JOB_ALONE) {
            return verdict;
        }
    }
    return settings->judges_unix ? judge_unix_by_rules(ctx, &found, settings) : EGRESS_PASS;
}

SEC("?cgroup/connect4")
int egress_unix_connect(struct bpf_sock_addr* ctx) {
    return judge_unix(ctx);
}

SEC("?cgroup/sendmsg4")
int egress_unix_sendmsg(struct bpf_sock_addr* ctx) {
    return judge_unix(ctx);
}

#endif
