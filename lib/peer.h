// One record to the daemon, with at most one file descriptor.
//
// These functions return 0 or an errno value, never wait, allocate no memory and make only system
// calls that are safe in signal handlers.
#pragma once

#include <cstddef>
#include <span>

#include <sys/socket.h>
#include <sys/un.h>

namespace egress::client {

/// Where the daemon listens.
struct Target {
    sockaddr_un address;
    socklen_t length;
};

/// Fills `out` from a path; null: EGRESS_SOCKET if set, else the built-in path.
/// ENAMETOOLONG: the path does not fit; `out` is unchanged.
int find_target(const char* path, Target& out);

/// Stores a new non-blocking, close-on-exec connection in `out`; the caller owns it.
/// EAGAIN: the daemon's queue of new connections is full.
int connect_to(const Target& target, int& out);

/// Sends one record, and with it `fd` unless that is -1.
int send_record(int connection, std::span<const std::byte> record, int fd);

/// Connects, sends and closes.
int send_once(const Target& target, std::span<const std::byte> record, int fd);

} // namespace egress::client
