// Lockouts: lines of [egress] that would cut off what whoever applies them needs.
//
// Judged by the text that the kernel runs, over the tables of the new policy, as they would decide
// now. The control socket is none of [egress]' business, and answers of servers (a session that
// came in) are not judged: what is left is the resolution of names, by the resolvers that the
// system names and those that answer on loopback.
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
    bool descends = false; ///< it is an ancestor of the one before it
};

/// Whoever wants other rules and can be asked whether he means it.
struct Asker {
    std::uint32_t uid = 0; ///< as the kernel says
    std::uint32_t gid = 0;
};

/// A root shell of the host, the first of whoever mends a system.
Insider root_shell();
/// That, and a shell of who asks.
std::vector<Insider> shells_of(const Asker& asker);
/// This process and those that it descends from, up to the first of the system.
std::vector<Insider> own_ancestry();
/// Finds out what the kernel would have of their programs; see find_places().
Result<> name_programs(std::vector<Insider>& insiders, const NameFiles& name);

/// Loopback's addresses for resolvers, and those of the file (/etc/resolv.conf).
std::vector<Address> resolvers(const std::string& file);

/// A warning for each line that refuses one of them a resolver.
std::vector<policy::Diagnostic> lockouts(const policy::Policy& policy, const Tables& tables,
                                         const std::vector<Insider>& insiders,
                                         const std::vector<Address>& resolvers,
                                         std::uint64_t week_at_boot);

/// The same where no tables are at hand: they are made, with the files and cgroups of this system.
std::vector<policy::Diagnostic> lockouts(const policy::Policy& policy,
                                         const std::vector<Insider>& insiders, const Clock& clock);

} // namespace egress::bpf
