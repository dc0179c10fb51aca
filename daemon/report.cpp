#include "daemon/report.h"

#include <cerrno>

#include <netinet/in.h>
#include <sys/socket.h>

#include "lib/fd.h"

namespace egress {

namespace {

int option(int fd, int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) == 0 ? value : -1;
}

std::optional<Endpoint> peer_of(int fd) {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    auto* const address = reinterpret_cast<sockaddr*>(&storage);
    return getpeername(fd, address, &length) == 0 ? Endpoint::from(address, length) : std::nullopt;
}

/// The common protocols have one type each, which saves a system call per report.
int type_of(int fd, int protocol) {
    switch (protocol) {
    case IPPROTO_TCP:
        return SOCK_STREAM;
    case IPPROTO_UDP:
        return SOCK_DGRAM;
    default:
        return option(fd, SOL_SOCKET, SO_TYPE);
    }
}

std::optional<Endpoint> said(const wire::Record& record) {
    return Endpoint::from(reinterpret_cast<const sockaddr*>(&record.remote), record.remote_length);
}

/// An IPv6 address cannot arrive on an IPv4 socket, nor IPv4 on an IPv6 socket that refuses it.
bool can_arrive(const Address& address, int fd, int domain) {
    if (domain == AF_INET) {
        return address.is_v4();
    }
    return !address.is_v4() || option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
}

/// What names a network namespace to the kernel (Linux 5.14); 0 where it cannot say.
std::uint64_t namespace_of(int fd) {
    constexpr int netns_cookie = 71; // SO_NETNS_COOKIE, younger than the C library's headers
    std::uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, netns_cookie, &cookie, &length) == 0 ? cookie : 0;
}

std::uint64_t own_namespace() {
    static const std::uint64_t cookie = [] {
        const Fd probe(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        return probe ? namespace_of(probe.get()) : 0;
    }();
    return cookie;
}

/// In a network namespace of his own, any user is root and has any address he likes; what its
/// sockets say proves nothing, unless root (a container's server) or a trusted reporter vouches for
/// it.
bool proves_nothing(int fd, std::uint32_t uid, const TrustedReporters& trusted) {
    if (uid == 0 || own_namespace() == 0 || namespace_of(fd) == own_namespace()) {
        return false;
    }
    Endpoint local;
    int type = 0;
    int protocol = 0;
    return !trusted.service_of(uid, local, type, protocol);
}

using Verdict = std::variant<Report, Refusal>;

/// No descriptor: the address is what the reporter says, and the rules must trust it to say so.
Verdict without_fd(Report report, const wire::Record& record, const TrustedReporters& trusted) {
    if (!trusted.service_of(report.uid, report.local, report.type, report.protocol)) {
        return Refusal::no_fd;
    }
    const auto remote = said(record);
    if (!remote) {
        return Refusal::no_address;
    }
    report.remote = *remote;
    return report;
}

/// A socket without a peer: an unconnected datagram socket may bring the address; so may a stream
/// socket, from those who could have reported without any: one that listens, or whose connection
/// was reset before we read of it.
Verdict without_peer(Report report, const wire::Record& record, int fd, int domain,
                     const TrustedReporters& trusted) {
    const bool datagram = report.type == SOCK_DGRAM;
    if (!datagram) {
        const bool listens = option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1;
        const bool says = record.remote_length != 0;
        Endpoint local;
        int type = 0;
        int protocol = 0;
        if ((!listens && !says) || !trusted.service_of(report.uid, local, type, protocol)) {
            return listens ? Refusal::listening : Refusal::not_connected;
        }
    }
    const auto remote = said(record);
    if (!remote) {
        return Refusal::no_address;
    }
    if (!can_arrive(remote->address, fd, domain)) {
        return Refusal::wrong_family;
    }
    report.remote = *remote;
    report.forgeable = datagram && !record.verified;
    return report;
}

} // namespace

Refusal refusal_of(wire::Fault fault) {
    switch (fault) {
    case wire::Fault::too_short:
        return Refusal::too_short;
    case wire::Fault::bad_magic:
        return Refusal::bad_magic;
    case wire::Fault::bad_version:
        return Refusal::bad_version;
    case wire::Fault::bad_action:
        return Refusal::bad_action;
    case wire::Fault::bad_address:
        return Refusal::bad_address;
    case wire::Fault::bad_length:
    case wire::Fault::none:
        break;
    }
    return Refusal::bad_length;
}

std::variant<Report, Refusal> verify(const wire::Record& record, int fd, const Sender& sender,
                                     const TrustedReporters& trusted) {
    Report report;
    report.action = static_cast<Action>(record.action);
    report.uid = sender.uid;
    report.pid = sender.pid;
    report.message = record.message;
    Verdict verdict = Refusal::no_fd;
    if (fd < 0) {
        verdict = without_fd(report, record, trusted);
    } else {
        sockaddr_storage storage{};
        socklen_t length = sizeof storage;
        if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) {
            return errno == ENOTSOCK || errno == EBADF ? Refusal::not_a_socket : Refusal::not_inet;
        }
        const int domain = storage.ss_family;
        const auto local = Endpoint::from(reinterpret_cast<const sockaddr*>(&storage), length);
        if (!local) {
            return Refusal::not_inet;
        }
        if (local->port == 0) {
            return Refusal::unbound;
        }
        report.local = *local;
        report.protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
        if (report.protocol == IPPROTO_MPTCP) {
            report.protocol = IPPROTO_TCP; // what the packets carry, and what rules say
        }
        if (report.protocol < 0 || report.protocol > 255) {
            return Refusal::wrong_protocol;
        }
        if (proves_nothing(fd, sender.uid, trusted)) {
            return Refusal::other_namespace;
        }
        report.type = type_of(fd, report.protocol);
        if (const auto peer = peer_of(fd)) {
            report.remote = *peer;
            verdict = report;
        } else {
            verdict = without_peer(report, record, fd, domain, trusted);
        }
    }
    if (const auto* accepted = std::get_if<Report>(&verdict);
        accepted != nullptr && accepted->remote.address.is_unspecified()) {
        return Refusal::unusable_address;
    }
    return verdict;
}

} // namespace egress
