// What the C entry points and the PAM module have in common.
#pragma once

#include <cstddef>
#include <span>

#include <pthread.h>
#include <sys/socket.h>

#include "lib/wire.h"

namespace egress {

class Connection;

/// For the length of a report: keeps errno, and keeps the thread from being cancelled inside, which
/// would leak a descriptor.
class Quiet {
  public:
    Quiet();
    ~Quiet();
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;

    /// 0 leaves errno as it was and returns 0; else errno is `error` and -1 is returned.
    int result(int error);

  private:
    int errno_;
    int cancel_ = 0;
};

/// The arguments of one report. Pointers are only read, during the call.
struct Report {
    int action;
    int fd = -1;
    const sockaddr* remote = nullptr;
    socklen_t remote_length = 0;
    const char* message = nullptr;
};

/// Sends over a connection of its own to `path` (null: as find_target). Returns 0 or errno value.
int send_report(const char* path, const Report& report);
/// Sends over a handle's connection.
int send_report(Connection& connection, const Report& report);

} // namespace egress
