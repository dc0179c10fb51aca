// Goes out by one path and says what came of it: the other side of matrix_test.py.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include <netinet/in.h>
#include <sys/socket.h>

#include "lib/fd.h"

namespace bypass {

using egress::Fd;

/// The path cannot be tried here, for the reason given.
struct Cannot : std::runtime_error {
    using std::runtime_error::runtime_error;
};

union Place {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
    socklen_t size() const { return any.sa_family == AF_INET6 ? sizeof v6 : sizeof v4; }
};

/// Where to go and what to say there.
struct Job {
    std::string v4, v6;         ///< the destination
    std::string other4, other6; ///< another one, for paths that go to two
    std::uint16_t port = 0;     ///< of all of them
    std::string token;          ///< what is sent
    std::string extra;          ///< what some paths need besides
};

/// What became of it: "sent", "arrived" where the path is its own receiver, or the name of an
/// errno.
using Path = std::string (*)(const Job&);

struct Named {
    std::string_view name;
    Path path;
};
std::span<const Named> stream_paths();
std::span<const Named> datagram_paths();
std::span<const Named> raw_paths();
std::span<const Named> process_paths();

Place place(const std::string& address, std::uint16_t port);
/// The name of the errno.
std::string failed(int code);
/// "sent", or the errno's name.
std::string told(long result);
/// Throws Cannot where the kernel lacks the protocol; else a socket, or none with errno set.
Fd make(int family, int type, int protocol = 0);
std::string connect_and_send(const Fd& fd, const Place& to, const Job& job);
std::string send_to(const Fd& fd, const Place& to, const Job& job, int flags = 0);
std::string say(const Fd& fd, const Job& job);

/// Keeps sockets that were made when the rules let it, and gives them away or sends by them.
int hold(const Job& job);

} // namespace bypass
