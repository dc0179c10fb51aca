// What the hooks add to a socket call, measured in one process on two sockets: one was made inside
// the guarded cgroup, one outside. Hooks belong to the cgroup that a socket was made in, so the two
// differ in nothing else. Batches alternate between them.
//
// usage: flow_cost CALL GUARDED OUTSIDE ADDRESSES [BATCHES]
//   CALL       connect, sendto (unconnected), send (connected), all UDP over IPv4;
//              raw (sendto on a raw socket);
//              receive, echo: a datagram to the socket, received; and answered (two more calls);
//              tcp: a byte to an accepted connection, received. The other end is outside;
//              reach: a socket, and a TCP connection to a closed port
//   GUARDED, OUTSIDE   directories of cgroups
//   ADDRESSES  a file with one IPv4 address per line, used in turn
// Prints, in nanoseconds of processor time a call, medians over the batches: outside, guarded,
// difference; and the quartiles of the difference.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

constexpr int per_batch = 512;

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "flow_cost: %s: %s\n", what.c_str(), std::strerror(errno));
    std::exit(1);
}

void enter(const std::string& cgroup) {
    const int fd = open((cgroup + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
        die(cgroup);
    }
    close(fd);
}

int make_socket(bool raw) {
    constexpr int for_experiments = 253; // RFC 3692
    const int fd = raw ? socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, for_experiments)
                       : socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        die("socket");
    }
    return fd;
}

std::vector<sockaddr_in> read_addresses(const char* path) {
    std::vector<sockaddr_in> out;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(9);
        if (inet_pton(AF_INET, line.c_str(), &address.sin_addr) == 1) {
            out.push_back(address);
        }
    }
    if (out.empty()) {
        errno = ENODATA;
        die(path);
    }
    return out;
}

enum class Call { connect, sendto, send, raw, receive, echo, tcp, reach };

bool receives(Call call) {
    return call == Call::receive || call == Call::echo || call == Call::tcp;
}

/// A socket that is measured, and for what is received the one that sends to it.
struct Ends {
    int measured = -1;
    int peer = -1;
    sockaddr_in address{}; ///< of the measured one
    std::string cgroup;    ///< where sockets are to be made, for `reach`
};

/// On the loopback device, at any port.
Ends bound(int type) {
    Ends out;
    out.measured = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    out.address.sin_family = AF_INET;
    out.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof out.address;
    auto* const address = reinterpret_cast<sockaddr*>(&out.address);
    if (out.measured < 0 || bind(out.measured, address, size) < 0 ||
        getsockname(out.measured, address, &size) < 0) {
        die("bind");
    }
    return out;
}

/// `cgroup` gets the end that is measured, `outside` the other.
Ends receiver(Call call, const std::string& cgroup, const std::string& outside) {
    const int type = call == Call::tcp ? SOCK_STREAM : SOCK_DGRAM;
    enter(cgroup);
    Ends out = bound(type);
    if (call == Call::tcp && listen(out.measured, 1) < 0) {
        die("listen");
    }
    enter(outside);
    out.peer = bound(type).measured;
    if (connect(out.peer, reinterpret_cast<const sockaddr*>(&out.address), sizeof out.address) <
        0) {
        die("connect");
    }
    enter(cgroup);
    if (call == Call::tcp) {
        const int on = 1;
        out.measured = accept(out.measured, nullptr, nullptr);
        setsockopt(out.peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    return out;
}

/// One message to the measured socket, and back from it for `echo`.
long pass(Call call, const Ends& ends) {
    char byte = 0;
    sockaddr_in from{};
    socklen_t size = sizeof from;
    auto* const address = reinterpret_cast<sockaddr*>(&from);
    if (send(ends.peer, "x", 1, 0) != 1 ||
        recvfrom(ends.measured, &byte, 1, 0, address, &size) != 1) {
        return -1;
    }
    if (call == Call::echo && (sendto(ends.measured, "x", 1, 0, address, size) != 1 ||
                               recv(ends.peer, &byte, 1, 0) != 1)) {
        return -1;
    }
    return 0;
}

/// Connects to a closed port, which answers at once.
long reach(const sockaddr* address) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int done = fd < 0 ? -1 : connect(fd, address, sizeof(sockaddr_in));
    const int error = errno;
    close(fd);
    errno = error;
    return done;
}

/// Nanoseconds of processor time, which other processes on the machine change little. What arrives
/// on the loopback device is received in the sender's time.
double used() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

double batch(Call call, const Ends& ends, const std::vector<sockaddr_in>& to, std::size_t& at) {
    const int fd = ends.measured;
    if (call == Call::reach) {
        enter(ends.cgroup);
    }
    const double begin = used();
    for (int i = 0; i < per_batch; ++i) {
        const auto* address = reinterpret_cast<const sockaddr*>(&to[at]);
        at = at + 1 == to.size() ? 0 : at + 1;
        long done = 0;
        switch (call) {
        case Call::connect:
            done = connect(fd, address, sizeof(sockaddr_in));
            break;
        case Call::sendto:
        case Call::raw:
            done = sendto(fd, "x", 1, 0, address, sizeof(sockaddr_in));
            break;
        case Call::send:
            done = send(fd, "x", 1, 0);
            break;
        case Call::receive:
        case Call::echo:
        case Call::tcp:
            done = pass(call, ends);
            break;
        case Call::reach:
            done = reach(address);
            break;
        }
        if (done < 0 && errno != ECONNREFUSED && errno != EPERM && errno != EAGAIN) {
            die("call");
        }
    }
    return (used() - begin) / per_batch;
}

const std::map<std::string, Call> calls = {
    {"connect", Call::connect}, {"sendto", Call::sendto},   {"send", Call::send},
    {"raw", Call::raw},         {"receive", Call::receive}, {"echo", Call::echo},
    {"tcp", Call::tcp},         {"reach", Call::reach},
};

double at_share(std::vector<double> values, double share) {
    const auto which = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + which, values.end());
    return values[static_cast<std::size_t>(which)];
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 5 || !calls.contains(argv[1])) {
        std::fprintf(stderr, "usage: flow_cost connect|sendto|send|raw|receive|echo|tcp|reach "
                             "GUARDED OUTSIDE ADDRESSES [BATCHES]\n");
        return 2;
    }
    const Call call = calls.at(argv[1]);
    const auto addresses = read_addresses(argv[4]);
    const int batches = argc > 5 ? std::atoi(argv[5]) : 400;
    const auto make = [&](const char* cgroup) {
        if (receives(call)) {
            return receiver(call, cgroup, argv[3]);
        }
        enter(cgroup);
        return Ends{make_socket(call == Call::raw), -1, {}, cgroup};
    };
    const Ends outside = make(argv[3]);
    const Ends guarded = make(argv[2]);
    if (call == Call::send) {
        for (const int fd : {outside.measured, guarded.measured}) {
            if (connect(fd, reinterpret_cast<const sockaddr*>(&addresses[0]), sizeof(sockaddr_in)) <
                0) {
                die("connect");
            }
        }
    }
    std::vector<double> plain;
    std::vector<double> hooked;
    std::vector<double> more;
    std::size_t at[2] = {0, addresses.size() / 2};
    for (int i = 0; i < batches; ++i) {
        const double first = batch(call, i % 2 ? guarded : outside, addresses, at[i % 2]);
        const double second = batch(call, i % 2 ? outside : guarded, addresses, at[1 - i % 2]);
        plain.push_back(i % 2 ? second : first);
        hooked.push_back(i % 2 ? first : second);
        more.push_back(hooked.back() - plain.back());
    }
    std::printf("%.0f %.0f %.0f %.0f %.0f\n", at_share(plain, 0.5), at_share(hooked, 0.5),
                at_share(more, 0.5), at_share(more, 0.25), at_share(more, 0.75));
    return 0;
}
