// A made-up machine, and who asks for what on it: the plain matcher's flow and the kernel's are
// made from the same description.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "daemon/bpf/tables/compile.h"
#include "daemon/bpf/tables/native.h"
#include "test/policy/egress_reference.h"

namespace egress::bpf {

inline constexpr std::int64_t monday = 1795996800;                ///< 2026-11-30, 00:00 UTC
inline constexpr std::int64_t boot_time = monday - 2 * 86400 - 7; ///< zero of the boot clock

struct Scene {
    // The process.
    std::string path;        ///< as exec recorded it
    bool host_path = true;   ///< and so is its place in the host's file system
    bool lost_place = false; ///< it can't be told where the file is
    bool deleted = false;
    bool lost_lineage = false;
    egress_file file{};
    std::string command;
    std::vector<egress_file> ancestors; ///< their programs; 0 is the parent
    std::size_t cgroup = 0;             ///< number in all_cgroups()
    // What it asks for.
    Address destination;
    std::vector<std::string> names; ///< that answers gave it
    bool answered = false;          ///< some answer gave it, for whatever name
    std::uint16_t port = 0;
    int type = 1;
    int protocol = 6;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    bool container = false;
    std::int64_t now = monday; ///< seconds since the epoch, after boot_time
    std::int64_t offset = 0;   ///< of local time from UTC, in seconds

    std::string text() const;
};

/// A cgroup2.
struct Cgroup {
    std::uint64_t id = 0;
    std::string path; ///< below the cgroup2 root, "/system.slice/nginx.service"
};
/// Every cgroup there is, innermost last.
const std::vector<Cgroup>& all_cgroups();
/// Files of a path: none, one, two (replaced on disk while it runs), or another path's.
std::vector<egress_file> files_of(const std::string& path);
World fake_world();
inline constexpr std::array<std::uint64_t, 2> names_key = {0x0123456789abcdef, 42};

inline constexpr std::uint32_t host_device = 8;
inline constexpr egress_file unnamed_file{999, host_device, 0, 0};

/// A process in the kernel's form.
egress_process process_of(const Scene& scene);
egress_flow flow_of(const Scene& scene);
/// What the compiled form says.
Decision decide_compiled(const Tables& tables, const Scene& scene);

/// The first line that fits as egress.conf(5) has it, by the reference's parts; programs and
/// ancestors are files here, as on a real machine.
std::uint32_t decide_plainly(const policy::Policy& policy, const Scene& scene);

} // namespace egress::bpf
