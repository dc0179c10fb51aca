#include "daemon/bpf/load/unix.h"

#include <cerrno>
#include <cstring>
#include <string_view>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/bpf.h>

#include "daemon/bpf/tables/destinations.h"
#include "lib/fd.h"

namespace egress::bpf {

namespace {

/// Newer than libbpf 1.1 and the kernel's headers of that time.
constexpr auto unix_connect = static_cast<bpf_attach_type>(49);
constexpr auto unix_sendmsg = static_cast<bpf_attach_type>(50);

struct Hook {
    const char* program;
    bpf_attach_type kind;
};
constexpr Hook unix_hooks[] = {
    {"egress_unix_connect", unix_connect},
    {"egress_unix_sendmsg", unix_sendmsg},
};

constexpr bpf_insn empty_program[] = {
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1},
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
};

/// The log only keeps what it gets. All lie in directories that root alone can write.
constexpr std::string_view logs[] = {
    "/dev/log",
    "/run/systemd/journal/dev-log",
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
};
/// They look up names for who asks, which would be a way around the names that a run lists. The C
/// library tries them at almost every start of a program, and does without.
constexpr std::string_view lookers[] = {
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/var/run/nscd/socket",
};

bool probe(bpf_attach_type kind) {
    bpf_prog_load_opts options{};
    options.sz = sizeof options;
    options.expected_attach_type = kind;
    return static_cast<bool>(Fd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "eg_probe", "GPL",
                                              empty_program, std::size(empty_program), &options)));
}

egress_unix_rule key_of(std::uint32_t job, std::string_view name) {
    egress_unix_rule key{};
    key.job = job;
    key.name = unix_name(name);
    return key;
}

Result<> put(int map, std::uint32_t job, std::string_view name, std::uint32_t value) {
    const auto key = key_of(job, name);
    return bpf_map_update_elem(map, &key, &value, BPF_ANY) == 0
               ? Result<>()
               : fail_errno("cannot tell the kernel the AF_UNIX sockets of a run");
}

} // namespace

std::vector<Coverage> choose_unix(bpf_object* object) {
    std::vector<Coverage> out;
    for (const auto& hook : unix_hooks) {
        if (!probe(hook.kind)) {
            out.push_back({hook.program, false,
                           errno == EINVAL ? "the kernel has no hook for it (Linux 6.7)"
                                           : std::strerror(errno)});
            continue;
        }
        auto* const program = bpf_object__find_program_by_name(object, hook.program);
        bpf_program__set_autoload(program, true);
        bpf_program__set_expected_attach_type(program, hook.kind);
    }
    return out;
}

Result<> allow_common_unix(int map) {
    for (const auto name : logs) {
        if (auto done = put(map, 0, name, EGRESS_UNIX_ALLOWED); !done) {
            return done;
        }
    }
    for (const auto name : lookers) {
        if (auto done = put(map, 0, name, EGRESS_UNIX_SILENT); !done) {
            return done;
        }
    }
    return {};
}

Result<> allow_unix(int map, std::uint32_t job, const std::vector<std::string>& names) {
    for (const auto& name : names) {
        if (auto done = put(map, job, name, EGRESS_UNIX_ALLOWED); !done) {
            return done;
        }
    }
    return {};
}

void forget_unix(int map, const std::function<bool(std::uint32_t job)>& lives) {
    std::vector<egress_unix_rule> over;
    egress_unix_rule key{};
    const egress_unix_rule* last = nullptr;
    for (int i = 0; i < EGRESS_MAX_UNIX; ++i) {
        egress_unix_rule next{};
        if (bpf_map_get_next_key(map, last, &next) != 0) {
            break;
        }
        key = next;
        last = &key;
        if (key.job != 0 && !lives(key.job)) {
            over.push_back(key);
        }
    }
    for (const auto& each : over) {
        bpf_map_delete_elem(map, &each);
    }
}

std::string unix_name_of(int map, const egress_flow& flow) {
    std::uint64_t hash = 0;
    egress_unix_name name{};
    std::memcpy(&hash, flow.address + 8, sizeof hash);
    if (bpf_map_lookup_elem(map, &hash, &name) != 0) {
        return {};
    }
    std::string out(name.text, std::min<std::size_t>(name.length, sizeof name.text));
    if (name.abstract != 0 && !out.empty()) {
        out[0] = '@';
    }
    return out;
}

} // namespace egress::bpf
