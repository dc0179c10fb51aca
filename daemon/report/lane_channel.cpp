#include "daemon/report/lane_channel.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <unistd.h>

namespace egress::lane {

namespace {

struct alignas(cmsghdr) Control {
    std::array<char, CMSG_SPACE(Channel::most_fds * sizeof(int))> bytes;
};

} // namespace

void close_all(std::vector<Fd>& fds) {
    for (std::size_t at = 0; at < fds.size();) {
        const std::size_t begin = at;
        while (++at < fds.size() && fds[at].get() == fds[at - 1].get() + 1) {
        }
        const auto first = static_cast<unsigned>(fds[begin].get());
        const auto last = static_cast<unsigned>(fds[at - 1].get());
        if (first != last && close_range(first, last, 0) == 0) {
            std::for_each(fds.begin() + static_cast<std::ptrdiff_t>(begin),
                          fds.begin() + static_cast<std::ptrdiff_t>(at),
                          [](Fd& fd) { fd.release(); });
        }
    }
    fds.clear(); // closes the others one by one
}

bool Channel::send_bytes(std::span<const std::byte> bytes, std::span<const int> fds) const {
    iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    Control control;
    if (!fds.empty()) {
        message.msg_control = control.bytes.data();
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* const part = CMSG_FIRSTHDR(&message);
        *part = {CMSG_LEN(fds.size_bytes()), SOL_SOCKET, SCM_RIGHTS};
        std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
    }
    ssize_t sent = -1;
    do {
        sent = sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0;
}

bool Channel::receive_bytes(std::span<std::byte> bytes, std::vector<Fd>& fds) const {
    iovec vector{bytes.data(), bytes.size()};
    Control control;
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    ssize_t got = -1;
    do {
        got = recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return false;
    }
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        fds.reserve((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (std::size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0);
             at += sizeof(int)) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
            fds.emplace_back(fd);
        }
    }
    return static_cast<std::size_t>(got) == bytes.size();
}

bool Channel::receive_plain_bytes(std::span<std::byte> bytes) const {
    ssize_t got = -1;
    do {
        got = recv(fd_.get(), bytes.data(), bytes.size(), 0);
    } while (got < 0 && errno == EINTR);
    return got >= 0 && static_cast<std::size_t>(got) == bytes.size();
}

} // namespace egress::lane
