#include "daemon/base/socket_guard.h"

#include <array>
#include <cstring>
#include <optional>

#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/log.h"

namespace egress {

namespace {

constexpr std::uint32_t changes = IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE |
                                  IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;

std::optional<struct stat> socket_at(const std::string& path) {
    struct stat there {};
    return lstat(path.c_str(), &there) == 0 && S_ISSOCK(there.st_mode) ? std::optional(there)
                                                                       : std::nullopt;
}

} // namespace

SocketGuard::SocketGuard(sd_event* event) : inotify_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    const int code = errno;
    auto source = inotify_ ? watch(event, inotify_.get(), EPOLLIN,
                                   [this](std::uint32_t) {
                                       drain();
                                       check();
                                   })
                           : fail_errno("inotify", code);
    if (!source) {
        log::warning("sockets",
                     "cannot watch the directories of the sockets ({}): looking at "
                     "them once a second",
                     source.error().text);
        inotify_.reset();
        return;
    }
    source_ = std::move(*source);
}

void SocketGuard::watch_directory(const std::string& path) {
    if (inotify_) { // the same directory again is the same watch
        const auto slash = path.rfind('/');
        const auto directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        inotify_add_watch(inotify_.get(), directory.c_str(), changes);
    }
}

void SocketGuard::add(const std::string& path, Remake remake) {
    const auto there = socket_at(path);
    watch_directory(path);
    sockets_.push_back({path, there.has_value(), 0, {}});
    files_.push_back({there ? there->st_dev : 0, there ? there->st_ino : 0, std::move(remake)});
}

/// What changed does not matter: check() looks for itself.
void SocketGuard::drain() {
    std::array<char, 4096> discarded{};
    constexpr int most = 64;
    for (int i = 0; i < most && read(inotify_.get(), discarded.data(), discarded.size()) > 0; ++i) {
    }
}

void SocketGuard::check() {
    for (std::size_t i = 0; i < sockets_.size(); ++i) {
        check(sockets_[i], files_[i]);
    }
}

void SocketGuard::check(Guarded& guarded, File& file) {
    const auto there = socket_at(guarded.path);
    if (there && there->st_dev == file.device && there->st_ino == file.inode) {
        guarded.listening = true;
        guarded.last_error.clear();
        return;
    }
    if (guarded.listening) {
        log::error("sockets",
                   "{} is gone or another's: no client can reach egressd there; making it "
                   "anew",
                   guarded.path);
    }
    guarded.listening = false;
    const auto made = file.remake(guarded.path);
    const auto now = socket_at(guarded.path);
    if (!made || !now) {
        const auto error = made ? "it is gone again" : made.error().text;
        if (error != guarded.last_error) { // told once, tried each second
            log::error("sockets", "{} cannot be made anew: {}", guarded.path, error);
        }
        guarded.last_error = error;
        return;
    }
    watch_directory(guarded.path); // the directory may be another one
    file.device = now->st_dev;
    file.inode = now->st_ino;
    guarded.listening = true;
    guarded.remade += 1;
    guarded.last_error.clear();
    log::notice("sockets", "{} is there again", guarded.path);
}

} // namespace egress
