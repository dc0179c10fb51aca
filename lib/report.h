// Builds and sends one report: shared by the C entry points, the PAM module and the BIND plugin.
#pragma once

#include <cstddef>
#include <span>

#include <pthread.h>
#include <sys/socket.h>

#include "lib/wire.h"

namespace egress::client {

class Connection;

/// For the length of a report: preserves errno, and disables cancellation of the thread, which
/// would leak a descriptor.
class Quiet {
  public:
    Quiet();
    ~Quiet();
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;

    /// For `error` 0 returns 0 and leaves errno unchanged; otherwise sets errno and returns -1.
    int result(int error);

  private:
    int errno_;
    int cancel_ = 0;
};

/// The arguments of one report. Its pointers are read only during the call.
struct Report {
    int action;
    int fd = -1;
    const sockaddr* remote = nullptr;
    socklen_t remote_length = 0;
    const char* message = nullptr;
};

/// Sends over a new connection to `path` (null: see find_target). Returns 0 or an errno value.
int send_report(const char* path, const Report& report);
/// Sends over a handle's connection.
int send_report(Connection& connection, const Report& report);

} // namespace egress::client
