// Which line of [egress] decides for a process and a destination, and why none before it does.
//
// The answer is worked out by the text that the kernel runs (bpf/verdict.h), over tables made from
// the rules in force. Questions are checked in the loop and answered on the builder's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/answered.h"
#include "daemon/base/result.h"
#include "daemon/bpf/load/loader.h"
#include "daemon/bpf/tables/compile.h"

namespace egress {

struct Question {
    // A process that runs, by what the kernel half knows of it; or one that might.
    std::uint32_t pid = 0;                    ///< 0: one that might
    std::optional<std::uint64_t> started;     ///< its start, clock ticks since boot
    std::optional<std::uint32_t> mount_space; ///< its namespaces, by inode number
    std::optional<std::uint32_t> pid_space;
    std::string exe;
    std::string command;              ///< empty: the last component of exe
    std::vector<std::string> parents; ///< programs; who forked it first
    // What may be said of both.
    std::string cgroup; ///< below the cgroup2 root
    std::optional<bool> container;
    egress_flow flow{};
};

/// JSON, or why there is no answer. Looks files and cgroups up: not for the loop.
Reply explain(const Question& question, const bpf::Loader& loader, const policy::Policy& policy,
              const bpf::Tables& tables);

} // namespace egress
