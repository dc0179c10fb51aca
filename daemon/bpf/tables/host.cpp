#include "daemon/bpf/tables/host.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/bpf/tables/cgroup_paths.h"
#include "daemon/bpf/tables/mounts.h"
#include "lib/fd.h"

namespace egress::bpf {

std::optional<std::uint64_t> id_of_cgroup(const std::string& directory) {
    struct stat found {};
    if (stat(directory.c_str(), &found) < 0 || !S_ISDIR(found.st_mode)) {
        return std::nullopt;
    }
    return found.st_ino;
}

std::string cgroup_root() {
    const auto mounts = read_mounts();
    const auto mount = std::ranges::find(mounts, "cgroup2", &Mount::type);
    return mount != mounts.end() ? mount->point : "";
}

std::string path_of_cgroup(std::uint64_t id) {
    static const std::string root = cgroup_root();
    static CgroupPaths paths(root);
    static const Fd mount(open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // A cgroup's id is its file handle, of kernfs' type.
    constexpr int kernfs_handle = 0xfe;
    alignas(file_handle) char room[sizeof(file_handle) + sizeof id];
    auto* const handle = reinterpret_cast<file_handle*>(room);
    handle->handle_bytes = sizeof id;
    handle->handle_type = kernfs_handle;
    std::memcpy(room + offsetof(file_handle, f_handle), &id, sizeof id);
    const Fd fd(open_by_handle_at(mount.get(), handle, O_RDONLY | O_CLOEXEC));
    if (!fd && errno == EPERM) {
        return paths.find(id);
    }
    char path[4096];
    const ssize_t length =
        fd ? readlink(fmt::format("/proc/self/fd/{}", fd.get()).c_str(), path, sizeof path) : -1;
    const std::string text(path, length > 0 ? static_cast<std::size_t>(length) : 0);
    if (!text.starts_with(root)) {
        return {};
    }
    return text.size() == root.size() ? "/" : text.substr(root.size());
}

bool has_cgroup(const std::string& root, const policy::EgressOptions& options) {
    if (!options.cgroup.empty()) {
        return id_of_cgroup(root + options.cgroup).has_value();
    }
    const auto instance = options.unit.find("@.");
    const auto fits = [&](const std::string& name) {
        return instance == std::string::npos
                   ? name == options.unit
                   : name.starts_with(options.unit.substr(0, instance + 1));
    };
    std::error_code code;
    for (auto entry = std::filesystem::recursive_directory_iterator(root, code);
         !code && entry != std::filesystem::recursive_directory_iterator(); entry.increment(code)) {
        if (entry->is_directory(code) && fits(entry->path().filename().string())) {
            return true;
        }
    }
    return false;
}

} // namespace egress::bpf
