// Resolves the paths of rules: files and their places inside their file systems.
//
// A rule names a path; the kernel matches the file behind it (device, number, generation) and its
// place (device, path inside the file system), neither of which a process can forge by mounts of
// its own. Paths are opened with O_PATH, which needs no permission on the file itself.
#pragma once

#include <cstdint>
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
    std::uint32_t device = 0; ///< in the kernel's form: MAJOR << 20 | MINOR
    std::string path;         ///< "": the root; else "/..."
    friend auto operator<=>(const Place&, const Place&) = default;
};

/// What a path leads to now.
struct Named {
    std::optional<egress_file> file; ///< nullopt: no regular file, or its identity is unknown
    std::vector<Place> places;       ///< a directory's own, and those of the mounts below it
    friend bool operator==(const Named& a, const Named& b);
};

/// Asks the kernel for the identity of this process' descriptors; see files.h.
using NameFiles = std::function<Result<std::vector<egress_named>>()>;

/// A path, and whether it is a tree.
struct PathQuery {
    std::string path;
    bool tree = false; ///< the directory and everything in it
    friend auto operator<=>(const PathQuery&, const PathQuery&) = default;
};

/// What the paths lead to, in their order. A path that does not exist (yet) gets the place that it
/// would have in the innermost directory that exists. Without `name`, this process uses mountinfo
/// and stat(2), which have no generations: compare such results only with each other.
Result<std::vector<Named>> find_places(const std::vector<PathQuery>& paths, const NameFiles& name);

bool same_file(const egress_file& a, const egress_file& b);

} // namespace egress::bpf
