#include "daemon/bpf/tables/cgroup_paths.h"

#include <filesystem>
#include <vector>

#include <sys/stat.h>

namespace egress::bpf {

namespace {

constexpr std::size_t paths_max = 65536; // the kernel allows as many in a hierarchy

} // namespace

std::string CgroupPaths::find(std::uint64_t id) {
    const auto known = paths_.find(id);
    if (known != paths_.end()) {
        return known->second; // an id is never reused
    }
    const auto begin = std::chrono::steady_clock::now();
    if (begin < next_) {
        return {};
    }
    walk();
    const auto end = std::chrono::steady_clock::now();
    next_ = end + 100 * (end - begin);
    const auto found = paths_.find(id);
    return found != paths_.end() ? found->second : std::string();
}

void CgroupPaths::walk() {
    paths_.clear();
    std::vector<std::string> waiting{""};
    while (!waiting.empty() && paths_.size() < paths_max) {
        const auto path = std::move(waiting.back());
        waiting.pop_back();
        struct stat found {};
        if (stat((root_ + path).c_str(), &found) < 0) {
            continue; // removed meanwhile
        }
        paths_.emplace(found.st_ino, path.empty() ? "/" : path);
        std::error_code code;
        for (auto entry = std::filesystem::directory_iterator(root_ + path, code);
             !code && entry != std::filesystem::directory_iterator(); entry.increment(code)) {
            std::error_code gone;
            if (entry->is_directory(gone)) {
                waiting.push_back(path + "/" + entry->path().filename().string());
            }
        }
    }
}

} // namespace egress::bpf
