// Cgroups as the kernel numbers them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/tables/compile.h"

namespace egress::bpf {

/// "/path" of the cgroup2 with that id; "": it is gone or inaccessible. For the loop's thread only.
std::string path_of_cgroup(std::uint64_t id);

/// Mount point of the cgroup2 hierarchy; "": not mounted.
std::string cgroup_root();

/// The id of the cgroup2 at this directory; nullopt: there is none.
std::optional<std::uint64_t> id_of_cgroup(const std::string& directory);

/// Whether the cgroup or unit that the options name exists now, below `root`.
bool has_cgroup(const std::string& root, const policy::EgressOptions& options);

} // namespace egress::bpf
