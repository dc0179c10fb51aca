#include "daemon/report/verify.h"

#include <cerrno>

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

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

/// The common protocols have one type each: this saves a system call per report.
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

/// Other protocols have a number instead of the port that any user may choose, such as a ping
/// socket's.
bool has_ports(int protocol) {
    switch (protocol) {
    case IPPROTO_TCP:
    case IPPROTO_UDP:
    case IPPROTO_UDPLITE:
    case IPPROTO_SCTP:
    case IPPROTO_DCCP:
        return true;
    default:
        return false;
    }
}

/// An IPv6 address cannot arrive on an IPv4 socket, nor an IPv4 address on an IPV6_V6ONLY socket.
bool can_arrive(const Address& address, int fd, int domain) {
    if (domain == AF_INET) {
        return address.is_v4();
    }
    return !address.is_v4() || option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
}

/// The kernel's cookie of a socket's network namespace (Linux 5.14); 0: not supported.
std::uint64_t namespace_of(int fd) {
    constexpr int netns_cookie = 71; // SO_NETNS_COOKIE, which the C library's headers lack
    std::uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, netns_cookie, &cookie, &length) == 0 ? cookie : 0;
}

/// Uses a unix socket, because the service's unit allows no internet sockets.
std::uint64_t own_namespace() {
    static const std::uint64_t cookie = [] {
        const Fd probe(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        return probe ? namespace_of(probe.get()) : 0;
    }();
    return cookie;
}

/// False also if the kernel cannot say: then nothing proves where the socket is.
bool in_own_namespace(int fd) {
    return own_namespace() != 0 && namespace_of(fd) == own_namespace();
}

/// The port that the peer addressed, if a rule of this host ("redirect", "dnat") translates it to
/// the socket's port; 0: none does, or the kernel's connection tracking does not know. Waits for
/// the socket's lock, as getsockname does.
std::uint16_t outer_port_of(int fd, const Finding& found) {
    constexpr int original_dst = 80; // SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST
    if (found.protocol != IPPROTO_TCP) {
        return 0; // of UDP the kernel does not tell
    }
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    auto* const address = reinterpret_cast<sockaddr*>(&storage);
    const int level = found.remote.address.is_v4() ? IPPROTO_IP : IPPROTO_IPV6;
    if (getsockopt(fd, level, original_dst, address, &length) != 0) {
        return 0;
    }
    const auto original = Endpoint::from(address, length);
    // The original destination of a connection that this host opened is its peer, and the port
    // there is the reporter's choice. In another namespace the translation is not on the way
    // through our firewall.
    const bool translated =
        original && *original != found.remote && original->port != found.local.port;
    return translated && in_own_namespace(fd) ? original->port : std::uint16_t{0};
}

/// The owner of a socket's inode: the file system uid of the caller of socket(2) or accept(2). A
/// user can pass the ownership only to uids of his own.
std::uint32_t maker_of(int fd) {
    struct stat its {};
    return fstat(fd, &its) == 0 ? its.st_uid : static_cast<std::uint32_t>(-1);
}

Refusal examine_socket(int fd, Finding& found) {
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
    found.local = *local;
    found.by_socket = true;
    found.protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
    if (found.protocol == IPPROTO_MPTCP) {
        found.protocol = IPPROTO_TCP; // the protocol in the packets and in the rules
    }
    found.type = type_of(fd, found.protocol);
    if (!has_ports(found.protocol) || found.type == SOCK_RAW) {
        return Refusal::wrong_protocol;
    }
    if (found.sender.uid != 0) { // root is trusted in both
        found.other_namespace = !in_own_namespace(fd);
        found.maker = maker_of(fd);
    }
    if (const auto peer = peer_of(fd)) {
        found.connected = true;
        found.remote = *peer;
        found.outer_port = outer_port_of(fd, found);
        return Refusal::count_;
    }
    found.listens = found.type != SOCK_DGRAM && option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1;
    found.speaks_said = !found.said_well || can_arrive(found.said.address, fd, domain);
    return Refusal::count_;
}

using Verdict = std::expected<Report, Refusal>;

bool is_trusted(const Reporter& reporter, const TrustedReporters& trusted) {
    Endpoint local;
    int type = 0;
    int protocol = 0;
    return trusted.service_of(reporter, local, type, protocol);
}

/// No descriptor: the address comes from the reporter, so the rules must trust it.
Verdict without_fd(Report report, const Finding& found, const Reporter& reporter,
                   const TrustedReporters& trusted) {
    if (!trusted.service_of(reporter, report.local, report.type, report.protocol)) {
        return std::unexpected(Refusal::no_fd);
    }
    if (!found.said_well) {
        return std::unexpected(Refusal::no_address);
    }
    report.remote = found.said;
    return report;
}

/// A socket without a peer: the message may give the address for an unconnected datagram socket. It
/// may also for a stream socket that listens, or whose connection was reset before the lane read
/// the message, but only from reporters that need no descriptor.
Verdict without_peer(Report report, const Finding& found, const Reporter& reporter,
                     const TrustedReporters& trusted) {
    const bool datagram = report.type == SOCK_DGRAM;
    if (!datagram && ((!found.listens && !found.says) || !is_trusted(reporter, trusted))) {
        return std::unexpected(found.listens ? Refusal::listening : Refusal::not_connected);
    }
    if (!found.said_well) {
        return std::unexpected(Refusal::no_address);
    }
    if (!found.speaks_said) {
        return std::unexpected(Refusal::wrong_family);
    }
    report.remote = found.said;
    report.forgeable = datagram && !found.verified;
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

Finding examine(const wire::Record& record, int fd, const Sender& sender) {
    Finding found;
    found.has_sender = true;
    found.sender = sender;
    found.action = static_cast<Action>(record.action);
    found.verified = record.verified;
    found.message_length = static_cast<std::uint16_t>(record.message.size());
    found.says = record.remote_length != 0;
    const auto said =
        Endpoint::from(reinterpret_cast<const sockaddr*>(&record.remote), record.remote_length);
    found.said_well = said.has_value();
    found.said = said.value_or(Endpoint{});
    if (fd >= 0) {
        found.refusal = examine_socket(fd, found);
    }
    return found;
}

std::expected<Report, Refusal> conclude(const Finding& found, std::string_view message,
                                        const TrustedReporters& trusted,
                                        const ReportingProcess* process) {
    if (found.refusal != Refusal::count_) {
        return std::unexpected(found.refusal);
    }
    Report report;
    report.action = found.action;
    report.local = found.local;
    report.remote = found.remote;
    report.outer_port = found.outer_port;
    report.type = found.type;
    report.protocol = found.protocol;
    report.uid = found.sender.uid;
    report.pid = found.sender.pid;
    report.by_socket = found.by_socket;
    report.maker = found.maker;
    report.message = message;
    // In his own network namespace a user is root and may have any address: its sockets prove
    // nothing, unless root (a container's server) or a line of [trusted] vouches for them: for the
    // service that the line names, because the socket's port is the user's choice, too.
    const Reporter reporter{report.uid, process};
    if (found.other_namespace && report.uid != 0) {
        report.vouched = trusted.vouches(reporter, report.local, report.type, report.protocol);
        if (!report.vouched) {
            return std::unexpected(Refusal::other_namespace);
        }
    }
    Verdict verdict = !found.by_socket  ? without_fd(report, found, reporter, trusted)
                      : found.connected ? Verdict(report)
                                        : without_peer(report, found, reporter, trusted);
    if (verdict && verdict->remote.address.is_unspecified()) {
        return std::unexpected(Refusal::unusable_address);
    }
    return verdict;
}

} // namespace egress
