#include "daemon/bpf/objects.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

namespace egress::bpf {

namespace {

/// The lines of mountinfo: id, device, mount point, type of file system.
struct Mount {
    int id = 0;
    std::string device; ///< "major:minor"
    std::string point;
    std::string type;
};

template <typename Wanted>
std::optional<Mount> find_mount(Wanted wanted) {
    std::ifstream file("/proc/self/mountinfo");
    for (std::string line; std::getline(file, line);) {
        std::istringstream fields(line);
        Mount mount;
        std::string skip;
        fields >> mount.id >> skip >> mount.device >> skip >> mount.point;
        while (fields >> skip && skip != "-") {
        }
        fields >> mount.type;
        if (wanted(mount)) {
            return mount;
        }
    }
    return std::nullopt;
}

int mount_id_of(int fd) {
    std::ifstream info(fmt::format("/proc/self/fdinfo/{}", fd));
    for (std::string key, value; info >> key >> value;) {
        if (key == "mnt_id:") {
            return std::atoi(value.c_str());
        }
    }
    return -1;
}

std::optional<std::uint64_t> id_of_cgroup(const std::string& directory) {
    struct stat found {};
    if (stat(directory.c_str(), &found) < 0 || !S_ISDIR(found.st_mode)) {
        return std::nullopt;
    }
    return found.st_ino;
}

} // namespace

std::optional<egress_file> file_at(const std::string& path) {
    const Fd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
    struct stat found {};
    if (fd.get() < 0 || fstat(fd.get(), &found) < 0 || !S_ISREG(found.st_mode)) {
        return std::nullopt;
    }
    const int id = mount_id_of(fd.get());
    const auto mount = find_mount([id](const Mount& each) { return each.id == id; });
    unsigned major = 0;
    unsigned minor = 0;
    if (!mount || std::sscanf(mount->device.c_str(), "%u:%u", &major, &minor) != 2) {
        return std::nullopt;
    }
    return egress_file{found.st_ino, major << 20 | minor, 0};
}

std::string cgroup_root() {
    const auto mount = find_mount([](const Mount& each) { return each.type == "cgroup2"; });
    return mount ? mount->point : "";
}

std::string path_of_cgroup(std::uint64_t id) {
    static const std::string root = cgroup_root();
    static const Fd mount(open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // A cgroup's id is its file handle, of the kind that kernfs has.
    constexpr int kernfs_handle = 0xfe;
    alignas(file_handle) char room[sizeof(file_handle) + sizeof id];
    auto* const handle = reinterpret_cast<file_handle*>(room);
    handle->handle_bytes = sizeof id;
    handle->handle_type = kernfs_handle;
    std::memcpy(room + offsetof(file_handle, f_handle), &id, sizeof id);
    const Fd fd(open_by_handle_at(mount.get(), handle, O_RDONLY | O_CLOEXEC));
    char path[4096];
    const ssize_t length =
        fd ? readlink(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), path, sizeof path) : -1;
    const std::string text(path, length > 0 ? static_cast<std::size_t>(length) : 0);
    if (!text.starts_with(root)) {
        return {};
    }
    return text.size() == root.size() ? "/" : text.substr(root.size());
}

std::vector<Cgroup> find_cgroups(const std::string& root, const policy::EgressOptions& options) {
    std::vector<Cgroup> out;
    if (!options.cgroup.empty()) {
        if (const auto id = id_of_cgroup(root + options.cgroup)) {
            out.push_back({*id, options.cgroup});
        }
        return out;
    }
    std::error_code code;
    for (auto entry = std::filesystem::recursive_directory_iterator(root, code);
         !code && entry != std::filesystem::recursive_directory_iterator(); entry.increment(code)) {
        if (entry->is_directory(code) && entry->path().filename() == options.unit) {
            if (const auto id = id_of_cgroup(entry->path().string())) {
                out.push_back({*id, entry->path().string().substr(root.size())});
            }
        }
    }
    return out;
}

} // namespace egress::bpf
