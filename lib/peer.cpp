#include "lib/peer.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include <egress-paths.h>

namespace egress::client {

int find_target(const char* path, Target& out) {
    if (path == nullptr) {
        path = secure_getenv("EGRESS_SOCKET");
    }
    if (path == nullptr || *path == '\0') {
        path = EGRESS_REPORT_SOCKET;
    }
    const std::size_t length = strnlen(path, sizeof out.address.sun_path);
    if (length == sizeof out.address.sun_path) {
        return ENAMETOOLONG;
    }
    std::memset(&out.address, 0, sizeof out.address);
    out.address.sun_family = AF_UNIX;
    std::memcpy(out.address.sun_path, path, length);
    out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length + 1);
    return 0;
}

int connect_to(const Target& target, int& out) {
    const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&target.address), target.length) < 0) {
        const int error = errno;
        ::close(fd);
        return error;
    }
    out = fd;
    return 0;
}

int send_record(int connection, std::span<const std::byte> record, int fd) {
    if (fd == connection) {
        return EBADF; // the caller had closed its descriptor, and our own connection got its number
    }
    iovec text{const_cast<std::byte*>(record.data()), record.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)];
    msghdr message{};
    message.msg_iov = &text;
    message.msg_iovlen = 1;
    if (fd != -1) {
        std::memset(control, 0, sizeof control);
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        cmsghdr* rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    return ::sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
}

int send_once(const Target& target, std::span<const std::byte> record, int fd) {
    int connection = -1;
    if (const int error = connect_to(target, connection); error != 0) {
        return error;
    }
    const int error = send_record(connection, record, fd);
    ::close(connection);
    return error;
}

} // namespace egress::client
