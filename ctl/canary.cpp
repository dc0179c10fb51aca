#include "ctl/canary.h"

#include <cstring>
#include <fstream>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "ctl/uring.h"

namespace egress::ctl {

namespace {

constexpr int protocol_mptcp = 262;
constexpr int protocol_udplite = 136;
constexpr int protocol_test = 253; // RFC 3692: for experiments

union Place {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
};

Place place4(const char* address, std::uint16_t port = 0) {
    Place place{};
    place.v4.sin_family = AF_INET;
    place.v4.sin_port = htons(port);
    inet_pton(AF_INET, address, &place.v4.sin_addr);
    return place;
}

Place place6(const char* address, std::uint16_t port = 0) {
    Place place{};
    place.v6.sin6_family = AF_INET6;
    place.v6.sin6_port = htons(port);
    inet_pton(AF_INET6, address, &place.v6.sin6_addr);
    return place;
}

socklen_t size_of(const Place& place) {
    return place.any.sa_family == AF_INET6 ? sizeof place.v6 : sizeof place.v4;
}

Fd make(int family, int type, int protocol = 0) {
    return Fd(socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
}

/// Opens a socket that receives; its port, 0: failed.
Fd receiver(const Place& at, int type, std::uint16_t& port) {
    Fd fd = make(at.any.sa_family, type);
    Place bound{};
    socklen_t length = sizeof bound;
    if (fd.get() < 0 || bind(fd.get(), &at.any, size_of(at)) < 0 ||
        (type == SOCK_STREAM && listen(fd.get(), 64) < 0) ||
        getsockname(fd.get(), &bound.any, &length) < 0) {
        return {};
    }
    port = ntohs(at.any.sa_family == AF_INET6 ? bound.v6.sin6_port : bound.v4.sin_port);
    return fd;
}

/// Whether the kernel has loaded the protocol: to request one would load it.
bool knows(std::string_view protocol) {
    std::ifstream file("/proc/net/protocols");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with(protocol) && line[protocol.size()] == ' ') {
            return true;
        }
    }
    return false;
}

bool may_make_raw() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    return syscall(SYS_capget, &header, data) == 0 &&
           (data[0].effective & (1U << CAP_NET_RAW)) != 0;
}

} // namespace

Attempt Attempt::of(long result, int error) {
    if (result >= 0 || error == EINPROGRESS || error == EAGAIN) {
        return passed();
    }
    return error == EPERM ? Attempt{Kind::refused, {}} : untried(std::strerror(error));
}

struct Canary::Sockets {
    std::uint16_t tcp4 = 0, tcp6 = 0, udp4 = 0, udp6 = 0; ///< ports; 0: there is none
    bool raw = may_make_raw();
    Fd tcp4_fd, tcp6_fd, udp4_fd, udp6_fd;
    Fd udp_before; ///< connected before the mark
    Fd raw_before; ///< created before it
    int udp_error = 0;
    int raw_error = 0;
    Fd handed;     ///< TCP, connected by another process before the mark
    Fd handed_end; ///< the other end
    int handed_error = 0;
};

namespace {

using Sockets = Canary::Sockets;

Attempt no_v6() {
    return Attempt::untried("there is no IPv6 on the loopback device");
}

Attempt tried(long result) {
    return Attempt::of(result, errno);
}

Attempt connect_to(const Place& place, int type, int protocol = 0) {
    const Fd fd = make(place.any.sa_family, type, protocol);
    return fd.get() < 0 ? tried(fd.get()) : tried(connect(fd.get(), &place.any, size_of(place)));
}

/// Connects, which sends nothing, and sends.
Attempt first_datagram(const Place& place) {
    const Fd fd = make(place.any.sa_family, SOCK_DGRAM);
    return fd.get() < 0 || connect(fd.get(), &place.any, size_of(place)) < 0
               ? tried(-1)
               : tried(send(fd.get(), "x", 1, MSG_NOSIGNAL));
}

Attempt send_to(int family, Place place, int flags = 0, int type = SOCK_DGRAM, int protocol = 0) {
    const Fd fd = make(family, type, protocol);
    const socklen_t length = size_of(place);
    return fd.get() < 0 ? tried(fd.get())
                        : tried(sendto(fd.get(), "x", 1, flags | MSG_NOSIGNAL, &place.any, length));
}

Attempt tcp4(const Sockets& to) {
    return connect_to(place4("127.0.0.1", to.tcp4), SOCK_STREAM);
}
Attempt tcp_zero(const Sockets& to) {
    return connect_to(place4("0.0.0.0", to.tcp4), SOCK_STREAM);
}
Attempt tcp6(const Sockets& to) {
    return to.tcp6 == 0 ? no_v6() : connect_to(place6("::1", to.tcp6), SOCK_STREAM);
}
Attempt tcp_mapped(const Sockets& to) {
    return to.tcp6 == 0 ? no_v6() : connect_to(place6("::ffff:127.0.0.1", to.tcp4), SOCK_STREAM);
}
Attempt fast_open(const Sockets& to) {
    return send_to(AF_INET, place4("127.0.0.1", to.tcp4), MSG_FASTOPEN, SOCK_STREAM);
}
Attempt fast_open_connect(const Sockets& to) {
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const int on = 1;
    if (setsockopt(fd.get(), IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on) < 0) {
        return tried(-1);
    }
    const Place place = place4("127.0.0.1", to.tcp4);
    const auto first = tried(connect(fd.get(), &place.any, size_of(place)));
    return first.kind == Attempt::Kind::passed ? tried(send(fd.get(), "x", 1, MSG_NOSIGNAL))
                                               : first;
}
Attempt mptcp(const Sockets& to) {
    return !knows("MPTCP") ? Attempt::untried("the kernel has no MPTCP")
                           : connect_to(place4("127.0.0.1", to.tcp4), SOCK_STREAM, protocol_mptcp);
}
Attempt thread(const Sockets& to) {
    Attempt attempt;
    std::thread([&] { attempt = tcp4(to); }).join();
    return attempt;
}

Attempt by_ring(const Sockets& to, unsigned flags) {
    Uring ring;
    if (!ring.good()) {
        return Attempt::untried("the kernel refuses io_uring here");
    }
    const Fd fd = make(AF_INET, SOCK_STREAM);
    const Place place = place4("127.0.0.1", to.tcp4);
    io_uring_sqe entry{};
    entry.opcode = IORING_OP_CONNECT;
    entry.flags = static_cast<std::uint8_t>(flags);
    entry.fd = fd.get();
    entry.addr = reinterpret_cast<std::uint64_t>(&place);
    entry.off = sizeof place.v4;
    const int result = ring.run(entry);
    return Attempt::of(result, -result);
}
Attempt ring_plain(const Sockets& to) {
    return by_ring(to, 0);
}
Attempt ring_async(const Sockets& to) {
    return by_ring(to, IOSQE_ASYNC);
}

Attempt udp_connect4(const Sockets& to) {
    return first_datagram(place4("127.0.0.1", to.udp4));
}
Attempt udp_connect6(const Sockets& to) {
    return to.udp6 == 0 ? no_v6() : first_datagram(place6("::1", to.udp6));
}
Attempt udp_send4(const Sockets& to) {
    return send_to(AF_INET, place4("127.0.0.1", to.udp4));
}
Attempt udp_send6(const Sockets& to) {
    return to.udp6 == 0 ? no_v6() : send_to(AF_INET6, place6("::1", to.udp6));
}
Attempt udp_mapped(const Sockets& to) {
    return to.udp6 == 0 ? no_v6() : send_to(AF_INET6, place6("::ffff:127.0.0.1", to.udp4));
}
Attempt udp_v4_on_v6(const Sockets& to) {
    return to.udp6 == 0 ? no_v6() : send_to(AF_INET6, place4("127.0.0.1", to.udp4));
}
Attempt udp_unspecified(const Sockets& to) {
    Place place = place4("127.0.0.1", to.udp4);
    place.any.sa_family = AF_UNSPEC;
    return send_to(AF_INET, place);
}

Attempt made(int family, int type, int protocol) {
    return tried(make(family, type, protocol).get());
}
Attempt raw(const Sockets& to, int family, int protocol) {
    return to.raw ? made(family, SOCK_RAW, protocol) : Attempt::untried("needs CAP_NET_RAW");
}
Attempt raw4(const Sockets& to) {
    return raw(to, AF_INET, protocol_test);
}
Attempt raw_header(const Sockets& to) {
    return raw(to, AF_INET, IPPROTO_RAW);
}
Attempt raw6(const Sockets& to) {
    return raw(to, AF_INET6, protocol_test);
}
Attempt ping4(const Sockets&) {
    const auto attempt = made(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    return attempt.kind == Attempt::Kind::untried
               ? Attempt::untried("net.ipv4.ping_group_range closes it to this group")
               : attempt;
}
Attempt ping6(const Sockets&) {
    const auto attempt = made(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
    return attempt.kind == Attempt::Kind::untried
               ? Attempt::untried("net.ipv4.ping_group_range closes it to this group")
               : attempt;
}
Attempt udplite(const Sockets&) {
    return knows("UDP-Lite") ? made(AF_INET, SOCK_DGRAM, protocol_udplite)
                             : Attempt::untried("the kernel has no UDP-Lite");
}
Attempt sctp(const Sockets&) {
    return knows("SCTP") ? made(AF_INET, SOCK_STREAM, IPPROTO_SCTP)
                         : Attempt::untried("the kernel has no SCTP loaded");
}

Attempt udp_before(const Sockets& to) {
    if (to.udp_before.get() < 0) {
        return Attempt::untried(to.udp_error == EPERM ? "the rules refuse loopback"
                                                      : std::strerror(to.udp_error));
    }
    return tried(send(to.udp_before.get(), "x", 1, MSG_NOSIGNAL));
}
Attempt raw_before(const Sockets& to) {
    if (to.raw_before.get() < 0) {
        return Attempt::untried(!to.raw                 ? "needs CAP_NET_RAW"
                                : to.raw_error == EPERM ? "the rules refuse raw sockets"
                                                        : std::strerror(to.raw_error));
    }
    const Place place = place4("127.0.0.1");
    return tried(sendto(to.raw_before.get(), "x", 1, MSG_NOSIGNAL, &place.any, size_of(place)));
}

/// Data held back until the kernel's timer sends it, when no process sends.
Attempt delayed(const Sockets& to) {
    if (to.handed_end.get() < 0) {
        return Attempt::untried(to.handed_error == EPERM ? "the rules refuse loopback"
                                                         : std::strerror(to.handed_error));
    }
    const int on = 1;
    if (setsockopt(to.handed.get(), IPPROTO_TCP, TCP_CORK, &on, sizeof on) < 0 ||
        send(to.handed.get(), "x", 1, MSG_NOSIGNAL) < 0) {
        return tried(-1);
    }
    constexpr int long_enough_ms = 600; // the timer takes 200
    pollfd wait{to.handed_end.get(), POLLIN, 0};
    return poll(&wait, 1, long_enough_ms) == 0 ? Attempt{Attempt::Kind::refused, {}}
                                               : Attempt::passed();
}

Attempt packet_socket(const Sockets& to) {
    return !to.raw            ? Attempt::untried("needs CAP_NET_RAW")
           : !knows("PACKET") ? Attempt::untried("the kernel has no packet sockets loaded")
                              : made(AF_PACKET, SOCK_RAW, 0);
}
Attempt vsock(const Sockets&) {
    return knows("AF_VSOCK") ? made(AF_VSOCK, SOCK_STREAM, 0)
                             : Attempt::untried("the kernel has no vsock loaded");
}
Attempt tun(const Sockets&) {
    const Fd fd(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    return fd.get() >= 0 ? Attempt::passed()
                         : Attempt::untried(std::string("/dev/net/tun: ") + std::strerror(errno));
}

constexpr Way all_ways[] = {
    {"TCP connect, IPv4", "connect4", tcp4},
    {"TCP connect to 0.0.0.0", "connect4", tcp_zero},
    {"TCP connect, IPv6", "connect6", tcp6},
    {"TCP connect to an IPv4-mapped address", "connect6", tcp_mapped},
    {"TCP Fast Open, MSG_FASTOPEN", "connect4", fast_open},
    {"TCP Fast Open, TCP_FASTOPEN_CONNECT", "connect4", fast_open_connect},
    {"MPTCP connect", "connect4", mptcp},
    {"TCP connect of another thread", "connect4", thread},
    {"TCP connect by io_uring", "connect4", ring_plain},
    {"TCP connect by io_uring's workers", "connect4", ring_async},
    {"UDP, first datagram after connect, IPv4", "packet", udp_connect4},
    {"UDP, first datagram after connect, IPv6", "packet", udp_connect6},
    {"UDP send, IPv4", "sendmsg4", udp_send4},
    {"UDP send, IPv6", "sendmsg6", udp_send6},
    {"UDP send to an IPv4-mapped address", "sendmsg4", udp_mapped},
    {"UDP send to an IPv4 address by an IPv6 socket", "sendmsg4", udp_v4_on_v6},
    {"UDP send, family unspecified", "sendmsg4", udp_unspecified},
    {"UDP-Lite socket", "sock_create", udplite},
    {"SCTP socket", "sock_create", sctp},
    {"ping socket, IPv4", "sock_create", ping4},
    {"ping socket, IPv6", "sock_create", ping6},
    {"raw socket, IPv4", "sock_create", raw4},
    {"raw socket with its own headers", "sock_create", raw_header},
    {"raw socket, IPv6", "sock_create", raw6},
    {"packet of a UDP socket connected before", "packet", udp_before},
    {"packet of a raw socket made before", "packet", raw_before},
    {"delayed send on another process' connection", "write", delayed},
    {"AF_PACKET socket", "", packet_socket},
    {"tun device", "", tun},
    {"vsock", "", vsock},
};

} // namespace

namespace {

/// Lets a child connect the socket, so that another process owns the connection.
void connect_by_another(Sockets& s) {
    s.handed = make(AF_INET, SOCK_STREAM);
    const Place place = place4("127.0.0.1", s.tcp4);
    const pid_t child = s.handed ? fork() : -1;
    if (child == 0) {
        const int code = connect(s.handed.get(), &place.any, size_of(place));
        _exit(code < 0 && errno != EINPROGRESS ? errno : 0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) {
        s.handed_error = errno;
        return;
    }
    s.handed_error = WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
    if (s.handed_error == 0) {
        constexpr int long_enough_ms = 1000;
        pollfd wait{s.tcp4_fd.get(), POLLIN, 0};
        s.handed_end = Fd(poll(&wait, 1, long_enough_ms) == 1
                              ? accept4(s.tcp4_fd.get(), nullptr, nullptr, SOCK_CLOEXEC)
                              : -1);
        s.handed_error = ETIMEDOUT;
    }
}

} // namespace

Canary::Canary() : sockets_(std::make_unique<Sockets>()) {
    auto& s = *sockets_;
    s.tcp4_fd = receiver(place4("127.0.0.1"), SOCK_STREAM, s.tcp4);
    s.tcp6_fd = receiver(place6("::1"), SOCK_STREAM, s.tcp6);
    s.udp4_fd = receiver(place4("127.0.0.1"), SOCK_DGRAM, s.udp4);
    s.udp6_fd = receiver(place6("::1"), SOCK_DGRAM, s.udp6);
    connect_by_another(s);
    s.udp_before = make(AF_INET, SOCK_DGRAM);
    const Place place = place4("127.0.0.1", s.udp4);
    if (s.udp_before.get() < 0 || connect(s.udp_before.get(), &place.any, size_of(place)) < 0) {
        s.udp_error = errno;
        s.udp_before.reset();
    }
    if (s.raw) {
        s.raw_before = make(AF_INET, SOCK_RAW, protocol_test);
        s.raw_error = errno;
    }
}

Canary::~Canary() = default;

std::span<const Way> ways() {
    return all_ways;
}

} // namespace egress::ctl
