#include "daemon/bpf/tables/places.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/bpf/tables/mounts.h"
#include "lib/fd.h"

namespace egress::bpf {

namespace {

/// A path, opened as far as it exists.
struct Opened {
    Fd fd;
    std::string rest; ///< the part that does not exist, "/..."; "": all exists
    bool regular = false;
};

Opened open_path(std::string path) {
    Opened out;
    for (;;) {
        out.fd.reset(open(path.empty() ? "/" : path.c_str(), O_PATH | O_CLOEXEC));
        struct stat found {};
        if (out.fd && fstat(out.fd.get(), &found) == 0) {
            // A path below a file that is no directory cannot exist.
            out.regular = S_ISREG(found.st_mode);
            return out;
        }
        const auto slash = path.rfind('/');
        if (slash == std::string::npos) {
            return out;
        }
        out.rest = path.substr(slash) + out.rest;
        path.resize(slash);
    }
}

std::string text_of(const egress_tree& place) {
    if (place.bits <= EGRESS_DEVICE_BITS) {
        return {};
    }
    return {place.path, strnlen(place.path, sizeof place.path)};
}

/// Identifies a descriptor by mountinfo and stat(2) alone.
std::optional<egress_named> name_by_mounts(int fd, const std::vector<Mount>& mounts) {
    const int id = mount_id_of(fd);
    const auto mount = std::ranges::find(mounts, id, &Mount::id);
    struct stat found {};
    char path[4096];
    const ssize_t length = readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), path, sizeof path);
    const std::string_view text(path, length > 0 ? static_cast<std::size_t>(length) : 0);
    if (mount == mounts.end() || fstat(fd, &found) < 0 || !is_within(text, mount->point)) {
        return std::nullopt;
    }
    egress_named out{};
    out.file = {found.st_ino, mount->device, 0, 0};
    out.place.device = mount->device;
    out.place.bits = EGRESS_DEVICE_BITS;
    const auto inside =
        mount->root + std::string(text == "/" ? "" : text.substr(mount->point.size()));
    if (inside.size() >= sizeof out.place.path) {
        out.flags = EGRESS_PROCESS_LOST_PLACE;
    } else if (!inside.empty()) {
        inside.copy(out.place.path, inside.size());
        out.place.bits += static_cast<std::uint32_t>((inside.size() + 1) * 8);
    }
    return out;
}

/// Whether `mount` is below the directory `path` and not visible outside of it: what is only bound
/// there from elsewhere is not in the tree.
bool belongs_below(const Mount& mount, const std::string& path, const std::vector<Mount>& mounts) {
    return mount.point != path && is_within(mount.point, path) &&
           std::ranges::none_of(mounts, [&](const Mount& other) {
               return other.device == mount.device && !is_within(other.point, path) &&
                      is_within(mount.root, other.root);
           });
}

Named named_of(const PathQuery& query, const Opened& opened, const egress_named* found,
               const std::vector<Mount>& mounts) {
    Named out;
    if (found == nullptr) {
        return out;
    }
    const bool root = found->place.bits <= EGRESS_DEVICE_BITS; // the root of a file system
    const bool lost = (found->flags & EGRESS_PROCESS_LOST_PLACE) != 0;
    if (opened.rest.empty() && opened.regular && found->file.path != EGRESS_NO_PATH) {
        out.file = found->file;
    }
    // A root has no path to walk, so the hook reports its place as lost.
    struct stat directory {};
    const bool is_root =
        root && fstat(opened.fd.get(), &directory) == 0 && S_ISDIR(directory.st_mode);
    if (!lost || is_root) {
        out.places.push_back({found->place.device, text_of(found->place) + opened.rest});
    }
    if (query.tree && opened.rest.empty()) {
        std::error_code code;
        const auto real = std::filesystem::canonical(query.path, code).string();
        for (const auto& mount : mounts) {
            if (!code && belongs_below(mount, real == "/" ? "" : real, mounts)) {
                out.places.push_back({mount.device, mount.root});
            }
        }
    }
    std::ranges::sort(out.places);
    return out;
}

} // namespace

bool same_file(const egress_file& a, const egress_file& b) {
    return a.inode == b.inode && a.device == b.device && a.generation == b.generation &&
           a.path == b.path;
}

bool operator==(const Named& a, const Named& b) {
    return a.file.has_value() == b.file.has_value() && (!a.file || same_file(*a.file, *b.file)) &&
           a.places == b.places;
}

Result<std::vector<Named>> find_places(const std::vector<PathQuery>& paths, const NameFiles& name) {
    std::vector<Named> out;
    if (paths.empty()) {
        return out;
    }
    const auto mounts = read_mounts();
    std::vector<Opened> opened;
    opened.reserve(paths.size());
    for (const auto& query : paths) {
        opened.push_back(open_path(query.path));
    }
    std::map<int, egress_named> by_fd;
    if (name) {
        const auto named = name();
        if (!named) {
            return std::unexpected(named.error());
        }
        for (const auto& each : *named) {
            by_fd.emplace(static_cast<int>(each.fd), each);
        }
    }
    for (std::size_t i = 0; i < paths.size(); ++i) {
        const int fd = opened[i].fd.get();
        const auto alone = name ? std::nullopt : name_by_mounts(fd, mounts);
        const auto asked = by_fd.find(fd);
        const egress_named* const found = alone                  ? &*alone
                                          : asked != by_fd.end() ? &asked->second
                                                                 : nullptr;
        out.push_back(named_of(paths[i], opened[i], found, mounts));
    }
    return out;
}

} // namespace egress::bpf
