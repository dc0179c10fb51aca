#include "lib/named/socket_finder.h"

#include <cstring>
#include <ctime>

#include <netinet/in.h>

namespace egress {
namespace {

/// An address without the fields that the kernel and BIND may fill differently (flow label,
/// padding).
struct Key {
    sa_family_t family = AF_UNSPEC;
    in_port_t port = 0;
    in6_addr address{}; ///< IPv4 in the first four bytes

    bool operator==(const Key& other) const {
        return family == other.family && port == other.port && same_address(other.address);
    }
    bool is_any() const { return same_address(in6_addr{}); }
    std::size_t hash() const {
        std::uint32_t words[4];
        std::memcpy(words, &address, sizeof words);
        const std::uint32_t mixed =
            (words[0] ^ words[1] ^ words[2] ^ words[3]) + port * 0x9e3779b1u;
        return (mixed * 0x85ebca6bu) >> 16;
    }

  private:
    bool same_address(const in6_addr& other) const {
        return std::memcmp(&address, &other, sizeof address) == 0;
    }
};

Key key_of(const sockaddr* from) {
    Key key;
    if (from->sa_family == AF_INET) {
        sockaddr_in in;
        std::memcpy(&in, from, sizeof in);
        std::memcpy(&key.address, &in.sin_addr, sizeof in.sin_addr);
        key.port = in.sin_port;
    } else if (from->sa_family == AF_INET6) {
        sockaddr_in6 in6;
        std::memcpy(&in6, from, sizeof in6);
        key.address = in6.sin6_addr;
        key.port = in6.sin6_port;
    } else {
        return key;
    }
    key.family = from->sa_family;
    return key;
}

using Ask = int (*)(int, sockaddr*, socklen_t*);

/// An end of a socket, by getpeername or getsockname; AF_UNSPEC: the descriptor has none.
Key end_of(int fd, Ask ask) {
    sockaddr_storage address;
    socklen_t length = sizeof address;
    auto* const asked = reinterpret_cast<sockaddr*>(&address);
    return ask(fd, asked, &length) == 0 ? key_of(asked) : Key{};
}

bool is_of_type(int fd, int wanted) {
    int type = 0;
    socklen_t length = sizeof type;
    return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == wanted;
}

std::uint64_t second() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return static_cast<std::uint32_t>(now.tv_sec);
}

} // namespace

int SocketFinder::descriptors_max() {
    const std::uint64_t seen = vain_.load(std::memory_order_relaxed);
    const bool many = seen >> 32 == second() && (seen & 0xffffffff) >= vain_a_second;
    return many ? short_search : long_search;
}

void SocketFinder::count_vain() {
    const std::uint64_t now = second() << 32;
    std::uint64_t seen = vain_.load(std::memory_order_relaxed);
    // Two threads that write at once may count one too few, which is harmless.
    vain_.store((seen >> 32 << 32) == now ? seen + 1 : now + 1, std::memory_order_relaxed);
}

template <typename Fits>
int SocketFinder::search(std::atomic<int>& remembered, Fits fits) {
    const int first = remembered.load(std::memory_order_relaxed) - 1;
    if (first >= 0 && fits(first)) {
        return first;
    }
    // A new connection gets the lowest free number, which is near the previous one.
    const int middle = last_.load(std::memory_order_relaxed);
    int left = descriptors_max();
    for (int distance = 0; left > 0; ++distance) {
        for (const int fd : {middle + distance, middle - distance - 1}) {
            if (fd < 0) {
                continue;
            }
            --left;
            if (fits(fd)) {
                remembered.store(fd + 1, std::memory_order_relaxed);
                last_.store(fd, std::memory_order_relaxed);
                return fd;
            }
        }
    }
    count_vain();
    return -1;
}

int SocketFinder::stream(const sockaddr* remote, const sockaddr* local) {
    const Key there = key_of(remote);
    const Key here = key_of(local);
    if (there.family == AF_UNSPEC) {
        return -1;
    }
    return search(remembered_[there.hash() % slots], [&](int fd) {
        return end_of(fd, ::getpeername) == there && end_of(fd, ::getsockname) == here &&
               is_of_type(fd, SOCK_STREAM);
    });
}

int SocketFinder::datagram(const sockaddr* local) {
    const Key here = key_of(local);
    if (here.family == AF_UNSPEC) {
        return -1;
    }
    // The resolver's own sockets are connected; client queries arrive on unconnected ones.
    const auto receives = [](int fd) {
        return is_of_type(fd, SOCK_DGRAM) && end_of(fd, ::getpeername).family == AF_UNSPEC;
    };
    const int exact = search(remembered_[here.hash() % slots], [&](int fd) {
        return end_of(fd, ::getsockname) == here && receives(fd);
    });
    if (exact >= 0 || here.is_any()) {
        return exact;
    }
    Key any;
    any.family = here.family;
    any.port = here.port;
    return search(remembered_[any.hash() % slots],
                  [&](int fd) { return end_of(fd, ::getsockname) == any && receives(fd); });
}

} // namespace egress
