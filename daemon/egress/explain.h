// Explains which rule of [egress] decides for a process and a destination, and why no earlier one
// does; of a destination by name, for each address that it has now.
//
// It runs the kernel's code (bpf/verdict.h) over tables made from the rules in force. The loop
// parses questions, the builder's thread answers them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/answered.h"
#include "daemon/base/result.h"
#include "daemon/bpf/load/loader.h"
#include "daemon/bpf/tables/compile.h"
#include "daemon/egress/asked_names.h"

namespace egress {

struct Question {
    // A running process, as the kernel side knows it; or a hypothetical one.
    std::uint32_t pid = 0;                  ///< 0: a hypothetical one
    std::optional<std::uint64_t> started;   ///< its start, clock ticks since boot
    std::optional<std::uint32_t> pid_space; ///< its pid namespace, by inode number
    std::string exe;
    std::string command;              ///< empty: the last component of exe
    std::vector<std::string> parents; ///< programs, the nearest first
    // For both.
    std::string cgroup; ///< below the cgroup2 root
    std::optional<bool> container;
    /// Its mount namespace, by inode number; 0: paths mean something else to it than there.
    std::optional<std::uint32_t> mount_space;
    egress_flow flow{};
    // The destination; both empty: the address in `flow`.
    std::string name;   ///< in lower case
    std::string socket; ///< of AF_UNIX: a path, or "@" and an abstract name
};

/// What is known of names beyond the tables.
struct KnownAnswers {
    const AskedNames& asked;
    std::vector<Endpoint> resolvers; ///< whose answers count
};

/// JSON, or why there is no answer. Reads files and cgroups: not for the loop.
Reply explain(const Question& question, const bpf::Loader& loader, const policy::Policy& policy,
              const bpf::Tables& tables, const KnownAnswers& answers);

} // namespace egress
