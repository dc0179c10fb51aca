// One record to the daemon, with at most one file descriptor.
//
// Everything here returns 0 or an errno value, never waits, allocates nothing and makes only
// system calls that are safe in signal handlers.
#pragma once

#include <cstddef>
#include <span>

#include <sys/socket.h>
#include <sys/un.h>

namespace egress {

/// Where the daemon listens.
struct Target {
    sockaddr_un address;
    socklen_t length;
};

/// Fills `out` from a path; null stands for EGRESS_SOCKET or, without it, the built-in path.
/// ENAMETOOLONG: the path does not fit; `out` is untouched.
int find_target(const char* path, Target& out);

/// A new non-blocking, close-on-exec connection in `out`, which the caller owns.
/// EAGAIN: the daemon's queue of new connections is full.
int connect_to(const Target& target, int& out);

/// Sends one record over a connection; `fd` goes with it unless it is -1.
int send_record(int connection, std::span<const std::byte> record, int fd);

/// Connects, sends and closes.
int send_once(const Target& target, std::span<const std::byte> record, int fd);

} // namespace egress
