// Where the paths of rules lead: files and their places inside their file systems.
//
// A rule names a path; the kernel matches the file behind it (device, number, generation) and its
// place (device, path inside the file system), neither of which a process can arrange by mounts of
// its own. Paths are opened with O_PATH, which needs no permission on the file itself.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"

namespace egress::bpf {

/// A path inside a file system.
struct Place {
    std::uint32_t device = 0; ///< as the kernel has it: MAJOR << 20 | MINOR
    std::string path;         ///< "" for the root, else "/..."
    friend auto operator<=>(const Place&, const Place&) = default;
};

/// What a path stands for now.
struct Named {
    std::optional<egress_file> file; ///< nullopt: there is none, or it has no name of its own
    std::vector<Place> places; ///< of a directory: its own, and those of what is mounted below it
    friend bool operator==(const Named& a, const Named& b);
};

/// Asks the kernel for the names of descriptors of this process; see files.h.
using NameFiles = std::function<Result<std::vector<egress_named>>()>;

/// A path and what is wanted of it.
struct PathQuery {
    std::string path;
    bool tree = false; ///< the directory and all in it
    friend auto operator<=>(const PathQuery&, const PathQuery&) = default;
};

/// What the paths stand for, in their order. What doesn't exist (yet) has the place that it would
/// have in the innermost directory that exists. Without `name`, this process finds out by itself
/// from mountinfo and stat(2), without generations: good for comparing with itself only.
Result<std::vector<Named>> find_places(const std::vector<PathQuery>& paths, const NameFiles& name);

bool same_file(const egress_file& a, const egress_file& b);

} // namespace egress::bpf
