// Cgroups as the kernel numbers them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/tables/compile.h"

namespace egress::bpf {

/// "/path" of the cgroup2 with that id; "" where it is gone or cannot be asked for. The loop's
/// only.
std::string path_of_cgroup(std::uint64_t id);

/// Where the cgroup2 hierarchy is mounted; "" where it is not.
std::string cgroup_root();

/// The id of the cgroup2 at this directory; nullopt: there is none.
std::optional<std::uint64_t> id_of_cgroup(const std::string& directory);

/// Whether the cgroup or unit that the options name exists now, below `root`.
bool has_cgroup(const std::string& root, const policy::EgressOptions& options);

} // namespace egress::bpf
