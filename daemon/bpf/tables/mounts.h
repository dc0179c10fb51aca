// The mounts that this process sees.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace egress::bpf {

struct Mount {
    int id = 0;
    std::uint32_t device = 0; ///< of the super block: MAJOR << 20 | MINOR
    std::string root;         ///< the mounted directory inside its file system; "": all of it
    std::string point;        ///< mount point; "": the root
    std::string type;         ///< of the file system
};

/// /proc/self/mountinfo, in its order.
std::vector<Mount> read_mounts();
/// The mount in which a descriptor was opened; -1: unknown.
int mount_id_of(int fd);
/// Whether `path` is `outer` or below it; both without a '/' at the end.
bool is_within(std::string_view path, std::string_view outer);

} // namespace egress::bpf
