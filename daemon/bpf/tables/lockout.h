// Lockouts: lines of [egress] that would cut off what an administrator needs.
//
// Judged by the code that the kernel runs (verdict.h), over the tables of the new policy, as they
// would decide now. [egress] does not apply to the control socket, nor to answers of servers (a
// session that came in). What remains is name resolution, by the system's resolvers and those on
// loopback.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/bpf/tables/compile.h"
#include "daemon/policy/parser.h"

namespace egress::bpf {

/// A process that must not be cut off.
struct Insider {
    std::string name; ///< for people
    egress_process process{};
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::string path;      ///< of the program
    std::string cgroup;    ///< below the cgroup2 root
    bool descends = false; ///< the insider before it descends from it
};

/// The user who wants other rules and can be asked to confirm them.
struct Asker {
    std::uint32_t uid = 0; ///< as the kernel reports it
    std::uint32_t gid = 0;
};

/// A root shell of the host, which an administrator needs first.
Insider root_shell();
/// The root shell, and a shell of the user.
std::vector<Insider> shells_of(const Asker& asker);
/// This process and its ancestors, up to the first of the system.
std::vector<Insider> own_ancestry();
/// Fills in how the kernel identifies their programs; see find_places().
Result<> name_programs(std::vector<Insider>& insiders, const NameFiles& name);

/// Loopback's addresses for resolvers, and those of the file (/etc/resolv.conf).
std::vector<Address> resolvers(const std::string& file);

/// A warning for each line that refuses one of them a resolver.
std::vector<policy::Diagnostic> lockouts(const policy::Policy& policy, const Tables& tables,
                                         const std::vector<Insider>& insiders,
                                         const std::vector<Address>& resolvers,
                                         std::uint64_t week_at_boot);

/// The same without tables: compiles them, with the files and cgroups of this system.
std::vector<policy::Diagnostic> lockouts(const policy::Policy& policy,
                                         const std::vector<Insider>& insiders, const Clock& clock);

} // namespace egress::bpf
