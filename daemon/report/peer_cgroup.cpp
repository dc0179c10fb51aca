#include "daemon/report/peer_cgroup.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "daemon/bpf/tables/host.h"
#include "lib/fd.h"

namespace egress {

namespace {

constexpr int peer_pidfd = 77; // SO_PEERPIDFD (Linux 6.5), which the C library's headers lack

/// struct pidfd_info of include/uapi/linux/pidfd.h in its first size (Linux 6.13).
struct PidfdInfo {
    std::uint64_t mask = 0;
    std::uint64_t cgroup = 0;
    std::uint32_t ids[12] = {};
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr std::uint64_t has_cgroup = 1U << 2;
constexpr std::uint64_t of_ended_too = 1U << 3; // Linux 6.15
constexpr unsigned long get_info = _IOWR(0xff, 11, PidfdInfo);

std::optional<std::uint64_t> cgroup_of(int pidfd) {
    PidfdInfo info;
    info.mask = has_cgroup | of_ended_too;
    return ioctl(pidfd, get_info, &info) == 0 && (info.mask & has_cgroup) != 0
               ? std::optional(info.cgroup)
               : std::nullopt;
}

/// The process's number in our namespace; 0: it has ended or is not to be seen from here.
int number_of(int pidfd) {
    std::ifstream file(fmt::format("/proc/self/fdinfo/{}", pidfd));
    for (std::string word; file >> word;) {
        int number = 0;
        if (word == "Pid:" && file >> number) {
            return number > 0 ? number : 0;
        }
    }
    return 0;
}

bool lists(const std::filesystem::path& directory, int number) {
    std::ifstream file(directory / "cgroup.procs");
    for (int member = 0; file >> member;) {
        if (member == number) {
            return true;
        }
    }
    return false;
}

bool has_ended(int pidfd) {
    pollfd one{pidfd, POLLIN, 0};
    return poll(&one, 1, 0) != 0;
}

} // namespace

bool is_member(int pidfd, const std::string& directory) {
    constexpr int most_directories = 64; // below it; the loop searches them
    const int number = number_of(pidfd);
    bool found = number != 0 && lists(directory, number);
    int visited = 0;
    std::error_code code;
    const std::filesystem::recursive_directory_iterator end;
    for (auto entry = std::filesystem::recursive_directory_iterator(directory, code);
         number != 0 && !found && !code && entry != end && visited < most_directories;
         entry.increment(code)) {
        if (entry->is_directory(code)) {
            visited += 1;
            found = lists(entry->path(), number);
        }
    }
    return found && !has_ended(pidfd); // while it lives, the number is its own
}

bool PeerProcess::inside(const std::string& cgroup) const {
    const auto known = inside_.find(cgroup);
    return known != inside_.end() ? known->second
                                  : inside_.emplace(cgroup, look_up(cgroup)).first->second;
}

bool PeerProcess::look_up(const std::string& cgroup) const {
    int number = -1;
    socklen_t length = sizeof number;
    if (getsockopt(connection_, SOL_SOCKET, peer_pidfd, &number, &length) != 0) {
        return false;
    }
    const Fd pidfd(number);
    if (const auto id = cgroup_of(pidfd.get())) {
        const std::string path = bpf::path_of_cgroup(*id);
        return !path.empty() && (path == cgroup || cgroup == "/" || path.starts_with(cgroup + "/"));
    }
    const std::string root = bpf::cgroup_root();
    return !root.empty() && is_member(pidfd.get(), root + cgroup);
}

} // namespace egress
