// UDP in its forms.
#include "bypass.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <netinet/udp.h>
#include <unistd.h>

namespace bypass {

namespace {

constexpr int protocol_udplite = 136;

std::string to4(const Job& job, const std::string& address, int family = AF_INET) {
    return send_to(make(family, SOCK_DGRAM), place(address, job.port), job);
}
std::string udp4(const Job& job) {
    return to4(job, job.v4);
}
std::string udp6(const Job& job) {
    return to4(job, job.v6, AF_INET6);
}
std::string mapped(const Job& job) {
    return to4(job, "::ffff:" + job.v4, AF_INET6);
}
std::string v4_on_v6(const Job& job) {
    return to4(job, job.v4, AF_INET6);
}
std::string zero4(const Job& job) {
    return to4(job, "0.0.0.0");
}
std::string zero6(const Job& job) {
    return to4(job, "::", AF_INET6);
}
std::string mapped_zero(const Job& job) {
    return to4(job, "::ffff:0.0.0.0", AF_INET6);
}

std::string unspecified(const Job& job) {
    Place to = place(job.v4, job.port);
    to.any.sa_family = AF_UNSPEC;
    return send_to(make(AF_INET, SOCK_DGRAM), to, job);
}

std::string connect4(const Job& job) {
    return connect_and_send(make(AF_INET, SOCK_DGRAM), place(job.v4, job.port), job);
}
std::string connect6(const Job& job) {
    return connect_and_send(make(AF_INET6, SOCK_DGRAM), place(job.v6, job.port), job);
}
std::string connect_mapped(const Job& job) {
    return connect_and_send(make(AF_INET6, SOCK_DGRAM), place("::ffff:" + job.v4, job.port), job);
}

/// Connected to one, sent to another.
std::string elsewhere(const Job& job, const std::string& one, const std::string& to, int family) {
    const Fd fd = make(family, SOCK_DGRAM);
    const Place first = place(one, job.port);
    (void)connect(fd.get(), &first.any, first.size());
    return send_to(fd, place(to, job.port), job);
}
std::string elsewhere4(const Job& job) {
    return elsewhere(job, job.other4, job.v4, AF_INET);
}
std::string elsewhere6(const Job& job) {
    return elsewhere(job, job.other6, job.v6, AF_INET6);
}

std::string dissolved(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    const Place first = place(job.other4, job.port);
    (void)connect(fd.get(), &first.any, first.size());
    Place nothing{};
    nothing.any.sa_family = AF_UNSPEC;
    (void)connect(fd.get(), &nothing.any, sizeof nothing.any);
    return send_to(fd, place(job.v4, job.port), job);
}

std::string corked(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    const int on = 1;
    const int off = 0;
    setsockopt(fd.get(), IPPROTO_UDP, UDP_CORK, &on, sizeof on);
    const auto sent = send_to(fd, place(job.v4, job.port), job);
    return sent != "sent" ? sent
                          : told(setsockopt(fd.get(), IPPROTO_UDP, UDP_CORK, &off, sizeof off));
}

std::string more(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    const auto sent = send_to(fd, place(job.v4, job.port), job, MSG_MORE);
    return sent != "sent" ? sent : send_to(fd, place(job.v4, job.port), job);
}

/// Corked under one address, and uncorked under another: it goes to the first.
std::string more_elsewhere(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    (void)send_to(fd, place(job.other4, job.port), job, MSG_MORE);
    return send_to(fd, place(job.v4, job.port), job);
}

/// Several messages in one call, the first to the other destination.
std::string many(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    Place places[] = {place(job.other4, job.port), place(job.v4, job.port)};
    std::string text = "other";
    std::string token = job.token;
    iovec parts[] = {{text.data(), text.size()}, {token.data(), token.size()}};
    mmsghdr messages[2]{};
    for (int i = 0; i < 2; ++i) {
        messages[i].msg_hdr.msg_name = &places[i];
        messages[i].msg_hdr.msg_namelen = places[i].size();
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    const int sent = sendmmsg(fd.get(), messages, 2, 0);
    if (sent < 0) {
        // The first message may be refused: each may be tried alone.
        return told(sendmmsg(fd.get(), messages + 1, 1, 0));
    }
    return sent == 2 ? "sent" : told(sendmmsg(fd.get(), messages + 1, 1, 0));
}

std::string by_splice(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    const Place to = place(job.v4, job.port);
    int ends[2] = {-1, -1};
    if (connect(fd.get(), &to.any, to.size()) < 0 || pipe2(ends, O_CLOEXEC) < 0 ||
        write(ends[1], job.token.data(), job.token.size()) < 0) {
        return failed(errno);
    }
    return told(splice(ends[0], nullptr, fd.get(), nullptr, job.token.size(), 0));
}

/// A loose source route: the packet is for the other destination and travels by way of this one,
/// to which it is addressed. The option needs no capability.
std::string source_route(const Job& job, bool connected) {
    const Fd fd = make(AF_INET, SOCK_DGRAM);
    const Place way = place(job.v4, 0);
    unsigned char option[8] = {1, 131, 7, 4}; // no operation, loose source route, length, pointer
    std::memcpy(option + 4, &way.v4.sin_addr, 4);
    if (setsockopt(fd.get(), IPPROTO_IP, IP_OPTIONS, option, sizeof option) < 0) {
        throw Cannot("IP_OPTIONS: " + failed(errno));
    }
    const Place to = place(job.other4, job.port);
    return connected ? connect_and_send(fd, to, job) : send_to(fd, to, job);
}
std::string source_routed(const Job& job) {
    return source_route(job, false);
}
std::string source_routed_connect(const Job& job) {
    return source_route(job, true);
}

/// The same with a segment routing header of IPv6.
std::string segment_route(const Job& job, bool connected) {
    const Fd fd = make(AF_INET6, SOCK_DGRAM);
    struct {
        unsigned char next, length, type, left, first, flags;
        unsigned char tag[2];
        in6_addr segments[2]; // the last to be visited stands first
    } header{0, 4, 4, 1, 1, 0, {}, {}};
    header.segments[1] = place(job.v6, 0).v6.sin6_addr;
    if (setsockopt(fd.get(), IPPROTO_IPV6, IPV6_RTHDR, &header, sizeof header) < 0) {
        throw Cannot("IPV6_RTHDR: " + failed(errno));
    }
    const Place to = place(job.other6, job.port);
    return connected ? connect_and_send(fd, to, job) : send_to(fd, to, job);
}
std::string segment_routed(const Job& job) {
    return segment_route(job, false);
}
std::string segment_routed_connect(const Job& job) {
    return segment_route(job, true);
}

std::string lite4(const Job& job) {
    return send_to(make(AF_INET, SOCK_DGRAM, protocol_udplite), place(job.v4, job.port), job);
}
std::string lite6(const Job& job) {
    return send_to(make(AF_INET6, SOCK_DGRAM, protocol_udplite), place(job.v6, job.port), job);
}
std::string lite_connect(const Job& job) {
    return connect_and_send(make(AF_INET, SOCK_DGRAM, protocol_udplite), place(job.v4, job.port),
                            job);
}

/// Back to where a datagram came from, once one has come.
std::string answered(const Job& job, int family) {
    const Fd fd = make(family, SOCK_DGRAM);
    Place here{};
    here.any.sa_family = static_cast<sa_family_t>(family);
    here.v4.sin_port = htons(static_cast<std::uint16_t>(job.port + 1)); // where IPv6 has it, too
    Place from{};
    socklen_t size = sizeof from;
    const timeval patience{20, 0};
    char question[64];
    if (bind(fd.get(), &here.any, here.size()) < 0 ||
        setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        recvfrom(fd.get(), question, sizeof question, 0, &from.any, &size) < 0) {
        throw Cannot("no question: " + failed(errno));
    }
    return send_to(fd, from, job);
}
std::string answered4(const Job& job) {
    return answered(job, AF_INET);
}
std::string answered6(const Job& job) {
    return answered(job, AF_INET6);
}

constexpr Named all[] = {
    {"udp-answered4", answered4},
    {"udp-answered6", answered6},
    {"udp4", udp4},
    {"udp6", udp6},
    {"udp-mapped", mapped},
    {"udp-v4-on-v6", v4_on_v6},
    {"udp-zero4", zero4},
    {"udp-zero6", zero6},
    {"udp-mapped-zero", mapped_zero},
    {"udp-unspecified", unspecified},
    {"udp-connect4", connect4},
    {"udp-connect6", connect6},
    {"udp-connect-mapped", connect_mapped},
    {"udp-elsewhere4", elsewhere4},
    {"udp-elsewhere6", elsewhere6},
    {"udp-dissolved", dissolved},
    {"udp-corked", corked},
    {"udp-more", more},
    {"udp-more-elsewhere", more_elsewhere},
    {"udp-many", many},
    {"udp-splice", by_splice},
    {"udp-source-routed", source_routed},
    {"udp-source-routed-connect", source_routed_connect},
    {"udp-segment-routed", segment_routed},
    {"udp-segment-routed-connect", segment_routed_connect},
    {"udplite4", lite4},
    {"udplite6", lite6},
    {"udplite-connect", lite_connect},
};

} // namespace

std::span<const Named> datagram_paths() {
    return all;
}

} // namespace bypass
