#include "daemon/egress/run_sockets.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>
#include <sys/stat.h>

#include "daemon/base/log.h"
#include "daemon/policy/egress/destination.h"

namespace egress {

namespace {

/// Why others than root could put something else below that directory; "": they cannot.
std::string weakness_of(const std::string& directory) {
    struct stat status {};
    if (lstat(directory.c_str(), &status) < 0) {
        return fmt::format("{}: {}", escape(directory), std::strerror(errno));
    }
    if (S_ISLNK(status.st_mode)) {
        return fmt::format("{} is a link: write where it leads to", escape(directory));
    }
    if (status.st_uid != 0 || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return fmt::format("others than root can write {}, and put a link to another socket there",
                           escape(directory));
    }
    return {};
}

/// The same for a whole path, of which the last part need not be there yet.
std::string weakness(const std::string& path) {
    auto found = weakness_of("/");
    for (auto at = path.find('/', 1); found.empty() && at != std::string::npos;
         at = path.find('/', at + 1)) {
        found = weakness_of(path.substr(0, at));
    }
    struct stat status {};
    if (found.empty() && lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode)) {
        return fmt::format("{} is a link: write where it leads to", escape(path));
    }
    return found;
}

} // namespace

Result<> check_sockets(bpf::Jobs::Asker& asker) {
    if (std::erase(asker.sockets, "*") > 0) {
        asker.flags |= EGRESS_JOB_UNIX;
    }
    if (asker.sockets.size() > EGRESS_MAX_UNIX_OF_JOB) {
        return fail(fmt::format("{} sockets; a run takes {}", asker.sockets.size(),
                                EGRESS_MAX_UNIX_OF_JOB));
    }
    for (const auto& name : asker.sockets) {
        if (auto what = policy::socket_objection(name); !what.empty()) {
            return fail(fmt::format("unix:{} {}", escape(name), what));
        }
        if (asker.uid == 0 || name[0] != '/') {
            continue;
        }
        if (auto what = weakness(name); !what.empty()) {
            return fail(fmt::format("unix:{} proves nothing: {}; a run of another user than root "
                                    "takes it with unix:* only",
                                    escape(name), what));
        }
    }
    return {};
}

} // namespace egress
