// What the hooks add to a socket call, measured in one process on two sockets: one was made inside
// the guarded cgroup, one outside. Hooks belong to the cgroup that a socket was made in, so the two
// differ in nothing else. Batches alternate between them.
//
// usage: flow_cost CALL GUARDED OUTSIDE ADDRESSES [BATCHES]
//   CALL       connect, sendto (unconnected), send (connected), all UDP over IPv4;
//              raw (sendto on a raw socket)
//   GUARDED, OUTSIDE   directories of cgroups
//   ADDRESSES  a file with one IPv4 address per line, used in turn
// Prints, in nanoseconds a call, medians over the batches: outside, guarded, difference; and the
// quartiles of the difference.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
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

enum class Call { connect, sendto, send, raw };

double batch(Call call, int fd, const std::vector<sockaddr_in>& to, std::size_t& at) {
    const auto begin = std::chrono::steady_clock::now();
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
        }
        if (done < 0 && errno != ECONNREFUSED && errno != EPERM && errno != EAGAIN) {
            die("call");
        }
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    return took.count() / per_batch;
}

double at_share(std::vector<double> values, double share) {
    const auto which = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), values.begin() + which, values.end());
    return values[static_cast<std::size_t>(which)];
}

} // namespace

int main(int argc, char** argv) {
    if (argc < 5) {
        std::fprintf(
            stderr,
            "usage: flow_cost connect|sendto|send|raw GUARDED OUTSIDE ADDRESSES [BATCHES]\n");
        return 2;
    }
    const std::string name = argv[1];
    const Call call = name == "connect"  ? Call::connect
                      : name == "sendto" ? Call::sendto
                      : name == "raw"    ? Call::raw
                                         : Call::send;
    const auto addresses = read_addresses(argv[4]);
    const int batches = argc > 5 ? std::atoi(argv[5]) : 400;
    enter(argv[3]);
    const int outside = make_socket(call == Call::raw);
    enter(argv[2]);
    const int guarded = make_socket(call == Call::raw);
    if (call == Call::send) {
        for (const int fd : {outside, guarded}) {
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
