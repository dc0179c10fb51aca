#include "lib/named/reporter.h"

#include <cerrno>
#include <cstdlib>
#include <new>

#include <netinet/in.h>

#include "lib/api.h"
#include "lib/connection.h"
#include "lib/named/socket_finder.h"
#include "lib/report.h"

struct named_reporter {
    explicit named_reporter(const egress::client::Target& target) : connection(target) {}
    egress::client::Connection connection;
    egress::SocketFinder finder;
};

namespace egress::client {
namespace {

int refused(named_reporter& reporter, named_way way, const sockaddr* remote, const sockaddr* local,
            const char* message) {
    Report report{EGRESS_AUTH_FAIL};
    report.message = message;
    report.remote = remote;
    report.remote_length =
        remote->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (way == NAMED_STREAM) {
        // A client that has hung up is reported by its address; that report counts only if egressd
        // trusts named's user.
        report.fd = reporter.finder.stream(remote, local);
    } else {
        report.fd = reporter.finder.datagram(local);
        if (way == NAMED_VERIFIED) {
            report.action |= EGRESS_VERIFIED;
        } else if (report.fd < 0) {
            // Without a socket egressd cannot tell that the source may be forged.
            return ENOTSOCK;
        }
    }
    return send_report(reporter.connection, report);
}

} // namespace
} // namespace egress::client

named_reporter* named_reporter_open(const char* path) {
    egress::client::Target target;
    if (const int error = egress::client::find_target(path, target); error != 0) {
        errno = error;
        return nullptr;
    }
    void* memory = std::malloc(sizeof(named_reporter));
    if (memory == nullptr) {
        errno = ENOMEM;
        return nullptr;
    }
    return new (memory) named_reporter(target);
}

int named_reporter_refused(named_reporter* reporter, named_way way, const sockaddr* remote,
                           const sockaddr* local, const char* message) {
    egress::client::Quiet quiet;
    return egress::client::refused(*reporter, way, remote, local, message);
}

void named_reporter_close(named_reporter* reporter) {
    if (reporter != nullptr) {
        reporter->connection.close();
        std::free(reporter);
    }
}
