#include "daemon/base/listener.h"

#include <cstring>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/log.h"

namespace egress {

namespace {

/// Removes a socket that has no listener.
Result<> clear_way(const std::string& path, const sockaddr_un& address, int type) {
    struct stat there {};
    if (lstat(path.c_str(), &there) != 0) {
        return {};
    }
    if (!S_ISSOCK(there.st_mode)) {
        return fail(path + " is there and is not a socket; move it away");
    }
    const Fd probe(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int code =
        connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    if (code == 0 || errno == EAGAIN || errno == EPROTOTYPE) {
        return fail("another daemon listens on " + path +
                    "; stop it first, or choose another path");
    }
    unlink(path.c_str());
    return {};
}

} // namespace

Result<Fd> make_listener(const std::string& path, int type, mode_t mode,
                         std::optional<gid_t> group) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
        return fail("the socket path " + path + " is too long (107 bytes at most)");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    if (auto clear = clear_way(path, address, type); !clear) {
        return std::unexpected(clear.error());
    }
    Fd listener(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const mode_t before = umask(0777 & ~mode);
    const bool bound = listener && bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
                                        sizeof address) == 0;
    const int code = errno;
    umask(before);
    if (!bound) {
        return fail_errno("cannot make the socket " + path, code);
    }
    if (group && chown(path.c_str(), static_cast<uid_t>(-1), *group) != 0) {
        log::warning("listener", "cannot give {} to its group: {}", path, std::strerror(errno));
    }
    if (listen(listener.get(), SOMAXCONN) != 0) {
        return fail_errno("cannot listen on " + path);
    }
    return listener;
}

Result<Fd> take_listener(Fd listener) {
    const int flags = fcntl(listener.get(), F_GETFL);
    if (flags < 0 || fcntl(listener.get(), F_SETFL, flags | O_NONBLOCK) != 0 ||
        fcntl(listener.get(), F_SETFD, FD_CLOEXEC) != 0) {
        return fail_errno("cannot use a socket from socket activation");
    }
    return listener;
}

} // namespace egress
