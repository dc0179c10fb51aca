// Reads /proc; processes choose some of its contents themselves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace egress::ctl {

/// Start of a process, in clock ticks since boot, from its "/proc/PID/stat".
std::optional<std::uint64_t> start_of(const std::string& file);
/// Its cgroup below the cgroup2 root, from its "/proc/PID/cgroup"; "": none.
std::string cgroup_in(const std::string& file);

} // namespace egress::ctl
