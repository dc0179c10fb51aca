// Connections: TCP in its forms, and what carries bytes over them without send(2).
#include "bypass.h"

#include <cerrno>

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

namespace bypass {

namespace {

constexpr int protocol_mptcp = 262;

std::string by(const std::string& address, const Job& job, int family, int protocol = 0) {
    return connect_and_send(make(family, SOCK_STREAM, protocol), place(address, job.port), job);
}

std::string tcp4(const Job& job) {
    return by(job.v4, job, AF_INET);
}
std::string tcp6(const Job& job) {
    return by(job.v6, job, AF_INET6);
}
std::string mapped(const Job& job) {
    return by("::ffff:" + job.v4, job, AF_INET6);
}
std::string zero4(const Job& job) {
    return by("0.0.0.0", job, AF_INET);
}
std::string zero6(const Job& job) {
    return by("::", job, AF_INET6);
}
std::string mapped_zero(const Job& job) {
    return by("::ffff:0.0.0.0", job, AF_INET6);
}

std::string nonblocking(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    const Place to = place(job.v4, job.port);
    if (connect(fd.get(), &to.any, to.size()) < 0 && errno != EINPROGRESS) {
        return failed(errno);
    }
    pollfd wait{fd.get(), POLLOUT, 0};
    poll(&wait, 1, 20'000);
    return say(fd, job);
}

/// Bound first: the kernel has another way to connect then.
std::string bound(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const Place own = place("0.0.0.0", 0);
    return bind(fd.get(), &own.any, own.size()) < 0
               ? failed(errno)
               : connect_and_send(fd, place(job.v4, job.port), job);
}

/// A socket that was connected to something else, and let go of it.
std::string again(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const Place other = place(job.other4, job.port);
    (void)connect(fd.get(), &other.any, other.size());
    Place nothing{};
    nothing.any.sa_family = AF_UNSPEC;
    (void)connect(fd.get(), &nothing.any, sizeof nothing.any);
    return connect_and_send(fd, place(job.v4, job.port), job);
}

std::string fast_open(const Job& job) {
    return send_to(make(AF_INET, SOCK_STREAM), place(job.v4, job.port), job, MSG_FASTOPEN);
}
std::string fast_open6(const Job& job) {
    return send_to(make(AF_INET6, SOCK_STREAM), place(job.v6, job.port), job, MSG_FASTOPEN);
}
std::string fast_open_mapped(const Job& job) {
    return send_to(make(AF_INET6, SOCK_STREAM), place("::ffff:" + job.v4, job.port), job,
                   MSG_FASTOPEN);
}

std::string fast_open_nonblocking(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    const auto first = send_to(fd, place(job.v4, job.port), job, MSG_FASTOPEN | MSG_DONTWAIT);
    if (first != "EINPROGRESS") {
        return first;
    }
    // No cookie is known yet: this time it was a connection without data.
    pollfd wait{fd.get(), POLLOUT, 0};
    poll(&wait, 1, 20'000);
    return say(fd, job);
}

std::string fast_open_connect(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const int on = 1;
    if (setsockopt(fd.get(), IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on) < 0) {
        throw Cannot("TCP_FASTOPEN_CONNECT: " + failed(errno));
    }
    return connect_and_send(fd, place(job.v4, job.port), job);
}

std::string mptcp4(const Job& job) {
    return by(job.v4, job, AF_INET, protocol_mptcp);
}
std::string mptcp6(const Job& job) {
    return by(job.v6, job, AF_INET6, protocol_mptcp);
}
std::string mptcp_fast_open(const Job& job) {
    const auto result = send_to(make(AF_INET, SOCK_STREAM, protocol_mptcp), place(job.v4, job.port),
                                job, MSG_FASTOPEN);
    if (result == "EOPNOTSUPP" || result == "EPIPE") {
        throw Cannot("MPTCP here has no Fast Open");
    }
    return result;
}

/// Connected, with the bytes in a file or a pipe.
std::string carried(const Job& job, bool by_file) {
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const Place to = place(job.v4, job.port);
    if (connect(fd.get(), &to.any, to.size()) < 0) {
        return failed(errno);
    }
    const auto size = job.token.size();
    if (by_file) {
        const Fd file(memfd_create("token", MFD_CLOEXEC));
        off_t start = 0;
        return write(file.get(), job.token.data(), size) < 0
                   ? failed(errno)
                   : told(sendfile(fd.get(), file.get(), &start, size));
    }
    int ends[2] = {-1, -1};
    if (pipe2(ends, O_CLOEXEC) < 0 || write(ends[1], job.token.data(), size) < 0) {
        return failed(errno);
    }
    return told(splice(ends[0], nullptr, fd.get(), nullptr, size, 0));
}
std::string by_sendfile(const Job& job) {
    return carried(job, true);
}
std::string by_splice(const Job& job) {
    return carried(job, false);
}

/// Nothing tells a sender that what asks for an association is dropped: it would ask for minutes.
Fd sctp_socket(int type) {
    Fd fd = make(AF_INET, type, IPPROTO_SCTP);
    const timeval wait{10, 0};
    if (fd) {
        setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    }
    return fd;
}
std::string sctp(const Job& job) {
    const Fd fd = sctp_socket(SOCK_STREAM);
    const Place to = place(job.v4, job.port);
    if (!fd) {
        return failed(errno);
    }
    const int code = connect(fd.get(), &to.any, to.size()) < 0 ? errno : 0;
    return code == EINPROGRESS ? "sent" : code != 0 ? failed(code) : say(fd, job);
}
std::string sctp_many(const Job& job) {
    return send_to(sctp_socket(SOCK_SEQPACKET), place(job.v4, job.port), job);
}

constexpr Named all[] = {
    {"tcp4", tcp4},
    {"tcp6", tcp6},
    {"tcp-mapped", mapped},
    {"tcp-zero4", zero4},
    {"tcp-zero6", zero6},
    {"tcp-mapped-zero", mapped_zero},
    {"tcp-nonblocking", nonblocking},
    {"tcp-bound", bound},
    {"tcp-again", again},
    {"tcp-fast-open", fast_open},
    {"tcp-fast-open6", fast_open6},
    {"tcp-fast-open-mapped", fast_open_mapped},
    {"tcp-fast-open-nonblocking", fast_open_nonblocking},
    {"tcp-fast-open-connect", fast_open_connect},
    {"mptcp4", mptcp4},
    {"mptcp6", mptcp6},
    {"mptcp-fast-open", mptcp_fast_open},
    {"tcp-sendfile", by_sendfile},
    {"tcp-splice", by_splice},
    {"sctp", sctp},
    {"sctp-many", sctp_many},
};

} // namespace

std::span<const Named> stream_paths() {
    return all;
}

} // namespace bypass
