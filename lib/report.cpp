#include "lib/report.h"

#include <cerrno>
#include <cstring>

#include "lib/connection.h"
#include "lib/peer.h"

namespace egress::client {
namespace {

using Buffer = std::byte[wire::max_record];

/// Encodes the record into `buffer`. Empty: the arguments are invalid (EINVAL).
std::span<const std::byte> make_record(Buffer& buffer, const Report& report) {
    std::string_view message;
    if (report.message != nullptr) {
        // One byte more than is sent, so that the cut can tell whether a character continues.
        message = {report.message, strnlen(report.message, wire::max_message + 1)};
    }
    return wire::encode(buffer, report.action, report.remote, report.remote_length, message);
}

} // namespace

Quiet::Quiet() : errno_(errno) {
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_);
}

Quiet::~Quiet() {
    pthread_setcancelstate(cancel_, nullptr);
    errno = errno_;
}

int Quiet::result(int error) {
    if (error == 0) {
        return 0;
    }
    errno_ = error;
    return -1;
}

int send_report(const char* path, const Report& report) {
    Buffer buffer;
    Target target;
    const auto record = make_record(buffer, report);
    if (record.empty()) {
        return EINVAL;
    }
    if (const int error = find_target(path, target); error != 0) {
        return error;
    }
    return send_once(target, record, report.fd);
}

int send_report(Connection& connection, const Report& report) {
    Buffer buffer;
    const auto record = make_record(buffer, report);
    return record.empty() ? EINVAL : connection.send(record, report.fd);
}

} // namespace egress::client
