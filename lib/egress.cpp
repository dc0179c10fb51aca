// The C entry points; see egress.h for what they promise.
#include <cerrno>
#include <cstdlib>
#include <new>

#include "lib/api.h"
#include "lib/connection.h"
#include "lib/peer.h"
#include "lib/report.h"

namespace client = egress::client;

struct egress_handle {
    explicit egress_handle(const client::Target& target) : connection(target) {}
    client::Connection connection;
};

int egress_report_sa(int action, int fd, const sockaddr* sa, socklen_t salen, const char* msg) {
    client::Quiet quiet;
    return quiet.result(client::send_report(nullptr, {action, fd, sa, salen, msg}));
}

int egress_report(int action, int fd, const char* msg) {
    return egress_report_sa(action, fd, nullptr, 0, msg);
}

egress_handle* egress_open() {
    client::Quiet quiet;
    client::Target target;
    if (const int error = client::find_target(nullptr, target); error != 0) {
        quiet.result(error);
        return nullptr;
    }
    // malloc: operator new would need the C++ run-time library.
    void* memory = std::malloc(sizeof(egress_handle));
    if (memory == nullptr) {
        quiet.result(ENOMEM);
        return nullptr;
    }
    return new (memory) egress_handle(target);
}

int egress_report_sa_r(egress_handle* handle, int action, int fd, const sockaddr* sa,
                       socklen_t salen, const char* msg) {
    client::Quiet quiet;
    if (handle == nullptr) {
        return quiet.result(EINVAL);
    }
    return quiet.result(client::send_report(handle->connection, {action, fd, sa, salen, msg}));
}

int egress_report_r(egress_handle* handle, int action, int fd, const char* msg) {
    return egress_report_sa_r(handle, action, fd, nullptr, 0, msg);
}

void egress_close(egress_handle* handle) {
    if (handle == nullptr) {
        return;
    }
    client::Quiet quiet;
    handle->connection.close();
    std::free(handle);
}
