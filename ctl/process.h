// What /proc says of processes; they choose some of it themselves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace egress::ctl {

/// When a process began, in clock ticks since boot, by its "/proc/PID/stat".
std::optional<std::uint64_t> start_of(const std::string& file);
/// Its cgroup below the cgroup2 root, by its "/proc/PID/cgroup"; "" where there is none.
std::string cgroup_in(const std::string& file);

} // namespace egress::ctl
