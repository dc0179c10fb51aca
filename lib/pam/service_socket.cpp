#include "lib/pam/service_socket.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <unistd.h>

namespace egress {
namespace {

constexpr int descriptors_max = 4096;  ///< per search; a log-in must not take long
constexpr int without_proc_max = 1024; ///< numbers to try if /proc is unavailable
constexpr in_port_t first_user_port = 1024;

struct Endpoint {
    in6_addr address; ///< IPv4 is mapped
    in_port_t port;   ///< host byte order
};

bool fold(const sockaddr_storage& from, Endpoint& out) {
    if (from.ss_family == AF_INET) {
        sockaddr_in in;
        std::memcpy(&in, &from, sizeof in);
        std::memset(&out.address, 0, sizeof out.address);
        std::memset(out.address.s6_addr + 10, 0xff, 2);
        std::memcpy(out.address.s6_addr + 12, &in.sin_addr, sizeof in.sin_addr);
        out.port = ntohs(in.sin_port);
        return true;
    }
    if (from.ss_family == AF_INET6) {
        sockaddr_in6 in6;
        std::memcpy(&in6, &from, sizeof in6);
        out.address = in6.sin6_addr;
        out.port = ntohs(in6.sin6_port);
        return true;
    }
    return false;
}

bool equal(const in6_addr& a, const in6_addr& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

struct PortRange {
    unsigned low = 32768; ///< the kernel's own defaults
    unsigned high = 60999;
    bool contains(in_port_t port) const { return port >= low && port <= high; }
};

/// The local ports that the kernel assigns to outgoing connections.
PortRange ephemeral_ports() {
    PortRange range;
    const int fd = ::open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return range;
    }
    char text[64];
    const ssize_t length = ::read(fd, text, sizeof text - 1);
    ::close(fd);
    if (length > 0) {
        text[length] = '\0';
        PortRange read;
        if (std::sscanf(text, "%u %u", &read.low, &read.high) == 2) {
            return read;
        }
    }
    return range;
}

/// An integer socket option; -1: the descriptor is no socket.
int option(int fd, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return ::getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

bool local_end(int fd, Endpoint& local) {
    sockaddr_storage address;
    socklen_t length = sizeof address;
    return ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 &&
           fold(address, local);
}

/// Both ends of a connected TCP socket; false for any other descriptor.
bool ends_of(int fd, Endpoint& local, Endpoint& remote) {
    sockaddr_storage address;
    return peer_of(fd, address) > 0 && fold(address, remote) &&
           option(fd, SO_TYPE) == SOCK_STREAM && local_end(fd, local);
}

bool has_reuse_address(int fd) {
    return option(fd, SO_REUSEADDR) > 0;
}

/// Calls `visit(fd)` for the descriptors of this process, up to a limit.
template <typename Visit>
void each_descriptor(Visit visit) {
    DIR* directory = ::opendir("/proc/self/fd");
    if (directory == nullptr) {
        for (int fd = 0; fd < without_proc_max; ++fd) {
            visit(fd);
        }
        return;
    }
    int left = descriptors_max;
    while (const dirent* entry = ::readdir(directory)) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        if (left-- == 0) {
            break;
        }
        const int fd = std::atoi(entry->d_name);
        if (fd != ::dirfd(directory)) {
            visit(fd);
        }
    }
    ::closedir(directory);
}

bool lower(int fd, int than) {
    return than < 0 || fd < than;
}

} // namespace

socklen_t parse_numeric(const char* text, sockaddr_storage& out) {
    std::memset(&out, 0, sizeof out);
    sockaddr_in in{};
    in.sin_family = AF_INET;
    if (::inet_pton(AF_INET, text, &in.sin_addr) == 1) {
        std::memcpy(&out, &in, sizeof in);
        return sizeof in;
    }
    char plain[INET6_ADDRSTRLEN];
    const std::size_t length = std::strcspn(text, "%");
    if (length >= sizeof plain) {
        return 0;
    }
    std::memcpy(plain, text, length);
    plain[length] = '\0';
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    if (::inet_pton(AF_INET6, plain, &in6.sin6_addr) != 1) {
        return 0;
    }
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
        std::memcpy(&in.sin_addr, in6.sin6_addr.s6_addr + 12, sizeof in.sin_addr);
        std::memcpy(&out, &in, sizeof in);
        return sizeof in;
    }
    if (text[length] == '%') {
        in6.sin6_scope_id = ::if_nametoindex(text + length + 1);
        if (in6.sin6_scope_id == 0) {
            return 0;
        }
    }
    std::memcpy(&out, &in6, sizeof in6);
    return sizeof in6;
}

socklen_t peer_of(int fd, sockaddr_storage& out) {
    sockaddr_storage address;
    socklen_t length = sizeof address;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) < 0) {
        return 0;
    }
    std::memcpy(&out, &address, length);
    return length;
}

int find_socket_of(const sockaddr_storage& remote) {
    Endpoint wanted;
    if (!fold(remote, wanted)) {
        return -1;
    }
    const PortRange ephemeral = ephemeral_ports();
    int best = -1;
    int second = -1;
    each_descriptor([&](int fd) {
        Endpoint here;
        Endpoint there;
        if (!ends_of(fd, here, there) || !equal(there.address, wanted.address)) {
            return;
        }
        if (!ephemeral.contains(here.port)) {
            best = lower(fd, best) ? fd : best;
        } else if (has_reuse_address(fd)) {
            second = lower(fd, second) ? fd : second;
        }
    });
    return best >= 0 ? best : second;
}

int find_reset_socket(const sockaddr_storage& remote) {
    const PortRange ephemeral = ephemeral_ports();
    int found = -1;
    bool ambiguous = false;
    in_port_t port = 0;
    each_descriptor([&](int fd) {
        Endpoint here;
        sockaddr_storage peer;
        if (option(fd, SO_TYPE) != SOCK_STREAM || option(fd, SO_ACCEPTCONN) != 0 ||
            peer_of(fd, peer) > 0 || !local_end(fd, here) || here.port == 0 ||
            ephemeral.contains(here.port) ||
            (remote.ss_family == AF_INET6 && option(fd, SO_DOMAIN) != AF_INET6)) {
            return;
        }
        ambiguous = ambiguous || (found >= 0 && port != here.port);
        port = here.port;
        found = lower(fd, found) ? fd : found;
    });
    return ambiguous ? -1 : found;
}

int find_only_socket() {
    const PortRange ephemeral = ephemeral_ports();
    int found = -1;
    bool ambiguous = false;
    in6_addr address{};
    each_descriptor([&](int fd) {
        Endpoint here;
        Endpoint there;
        if (!ends_of(fd, here, there) || ephemeral.contains(here.port) ||
            there.port < first_user_port) {
            return;
        }
        ambiguous = ambiguous || (found >= 0 && !equal(address, there.address));
        address = there.address;
        found = lower(fd, found) ? fd : found;
    });
    return ambiguous ? -1 : found;
}

} // namespace egress
