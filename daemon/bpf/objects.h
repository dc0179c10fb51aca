// Files and cgroups as the kernel numbers them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/bpf/compile.h"
#include "daemon/result.h"

namespace egress::bpf {

/// The regular file at the path (links followed) as the kernel names it. stat(2)'s device will not
/// do: file systems with several of them (btrfs, overlay) show another there than they have inside.
std::optional<egress_file> file_at(const std::string& path);

/// "/path" of the cgroup2 with that id; "" where it is gone or cannot be asked for.
std::string path_of_cgroup(std::uint64_t id);

/// Where the cgroup2 hierarchy is mounted; "" where it is not.
std::string cgroup_root();

/// The cgroup "/path", or all whose last component is `unit`, below `root`.
std::vector<Cgroup> find_cgroups(const std::string& root, const policy::EgressOptions& options);

} // namespace egress::bpf
