#include "daemon/bpf/load/tiers.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/bpf.h>
#include <sys/socket.h>

#include "daemon/bpf/load/types.h"
#include "daemon/bpf/load/unix.h"
#include "lib/fd.h"

namespace egress::bpf {

namespace {

struct Part {
    const char* program;
    const char* function; ///< or tracepoint, or hook
    bpf_attach_type kind;
    bool needed = true; ///< its tier requires it; else only if the kernel has the function
};

/// One way to do a job, made of parts.
using Tier = std::span<const Part>;

constexpr Part by_tracepoint[] = {
    {"egress_write", "tcp_sendmsg_locked", BPF_TRACE_RAW_TP},
};
constexpr Part by_function[] = {
    {"egress_write_fn", "tcp_sendmsg_locked", BPF_TRACE_FENTRY},
    {"egress_write_on", "sk_stream_wait_memory", BPF_TRACE_FEXIT},
    {"egress_write_pg", "do_tcp_sendpages", BPF_TRACE_FENTRY, false},
};

constexpr Part by_module[] = {
    {"egress_family", "socket_create", BPF_LSM_CGROUP},
};

constexpr int probed_protocol = 12345; ///< no family has it
constexpr int probed_error = EXDEV;

constexpr bpf_insn nothing[] = {
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0},
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
};
constexpr bpf_insn pass[] = {
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1},
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
};
/// socket_create: returns probed_error for that protocol.
constexpr bpf_insn refuse_one[] = {
    {BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, BPF_REG_1, 16, 0},
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0},
    {BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2, 0, 1, probed_protocol},
    {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, -probed_error},
    {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
};

/// BTF id of the part's function; 0: the kernel does not have it.
std::uint32_t find(const btf* types, const Part& part) {
    if (types == nullptr) {
        return 0;
    }
    const bool is_tracepoint = part.kind == BPF_TRACE_RAW_TP;
    const std::string name = (is_tracepoint                 ? "btf_trace_"
                              : part.kind == BPF_LSM_CGROUP ? "bpf_lsm_"
                                                            : "") +
                             std::string(part.function);
    const int id = btf__find_by_name_kind(types, name.c_str(),
                                          is_tracepoint ? BTF_KIND_TYPEDEF : BTF_KIND_FUNC);
    return id < 0 ? 0 : static_cast<std::uint32_t>(id);
}

Fd load(std::uint32_t id, bpf_attach_type kind, std::span<const bpf_insn> text) {
    const bool of_module = kind == BPF_LSM_MAC || kind == BPF_LSM_CGROUP;
    bpf_prog_load_opts options{};
    options.sz = sizeof options;
    options.expected_attach_type = kind;
    options.attach_btf_id = id;
    return Fd(bpf_prog_load(of_module ? BPF_PROG_TYPE_LSM : BPF_PROG_TYPE_TRACING, "eg_probe",
                            "GPL", text.data(), text.size(), &options));
}

/// 0 or the errno.
int attach(const Fd& program) {
    const Fd link(program ? bpf_raw_tracepoint_open(nullptr, program.get()) : -1);
    return link ? 0 : errno;
}

/// The kernel loads and attaches LSM programs even if the BPF LSM is not active. So request what
/// the program refuses.
int probe_module(std::uint32_t id) {
    const Fd on_cgroup = load(id, BPF_LSM_CGROUP, pass);
    const Fd program = on_cgroup ? load(id, BPF_LSM_MAC, refuse_one) : Fd();
    const Fd link(program ? bpf_raw_tracepoint_open(nullptr, program.get()) : -1);
    if (!link) {
        return errno;
    }
    const Fd unused(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, probed_protocol));
    return !unused && errno == probed_error ? 0 : ENOTSUP;
}

/// 0 or the errno; ESRCH: the kernel has no such function.
int probe(const btf* types, const Part& part) {
    const auto id = find(types, part);
    if (id == 0) {
        return ESRCH;
    }
    return part.kind == BPF_LSM_CGROUP ? probe_module(id) : attach(load(id, part.kind, nothing));
}

/// Selects the tier; 0, or why this kernel does not take it.
int use(bpf_object* object, const btf* types, Tier tier) {
    for (const auto& part : tier) {
        const int code = probe(types, part);
        if (code != 0 && (part.needed || code != ESRCH)) {
            return code;
        }
    }
    for (const auto& part : tier) {
        bpf_program* const program = bpf_object__find_program_by_name(object, part.program);
        bpf_program__set_autoload(program, find(types, part) != 0);
    }
    return 0;
}

} // namespace

std::vector<Coverage> choose_tiers(bpf_object* object) {
    const Types types(btf__load_vmlinux_btf());
    std::vector<Coverage> out = choose_unix(object);
    if (use(object, types.get(), by_tracepoint) != 0) {
        if (const int code = use(object, types.get(), by_function); code != 0) {
            out.push_back({"egress_write", false,
                           fmt::format("no tracepoint tcp_sendmsg_locked (Linux 6.16), and the "
                                       "function of that name cannot be watched: {}",
                                       code == ESRCH ? "there is none" : std::strerror(code))});
        }
    }
    if (const int code = use(object, types.get(), by_module); code != 0) {
        out.push_back({"egress_family", false,
                       code == ENOTSUP ? "\"bpf\" is not among the kernel's active security modules"
                       : code == ESRCH
                           ? "the kernel was built without BPF_LSM"
                           : fmt::format("no BPF program may be a security module here: {}",
                                         std::strerror(code))});
    }
    return out;
}

} // namespace egress::bpf
