#include "daemon/report.h"

#include <netinet/in.h>
#include <sys/socket.h>

namespace egress {

namespace {

int option(int fd, int level, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, name, &value, &length) == 0 ? value : -1;
}

std::optional<Endpoint> name_of(int fd, int (*get)(int, sockaddr*, socklen_t*)) {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;
    auto* const address = reinterpret_cast<sockaddr*>(&storage);
    return get(fd, address, &length) == 0 ? Endpoint::from(address, length) : std::nullopt;
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

/// A socket without a peer: an unconnected datagram socket may bring the address; so may a
/// listening socket, from those who could have reported without any.
Verdict without_peer(Report report, const wire::Record& record, int fd, int domain,
                     const TrustedReporters& trusted) {
    const bool datagram = report.type == SOCK_DGRAM;
    if (!datagram) {
        if (option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1) {
            return Refusal::not_connected;
        }
        Endpoint local;
        int type = 0;
        int protocol = 0;
        if (!trusted.service_of(report.uid, local, type, protocol)) {
            return Refusal::listening;
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
        const int domain = option(fd, SOL_SOCKET, SO_DOMAIN);
        if (domain < 0) {
            return Refusal::not_a_socket;
        }
        if (domain != AF_INET && domain != AF_INET6) {
            return Refusal::not_inet;
        }
        report.type = option(fd, SOL_SOCKET, SO_TYPE);
        report.protocol = option(fd, SOL_SOCKET, SO_PROTOCOL);
        const auto local = name_of(fd, getsockname);
        if (!local || local->port == 0) {
            return Refusal::unbound;
        }
        report.local = *local;
        if (const auto peer = name_of(fd, getpeername)) {
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
