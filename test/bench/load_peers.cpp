#include "load_peers.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

namespace egress::bench {

namespace {

constexpr std::uint32_t first_address = 0x7f010000; // 127.1.0.0

sockaddr_in ipv4(std::uint32_t address, std::uint16_t port) {
    sockaddr_in out{};
    out.sin_family = AF_INET;
    out.sin_port = htons(port);
    out.sin_addr.s_addr = address;
    return out;
}

void raise_limit() {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

} // namespace

std::uint32_t address_of(std::uint32_t index) {
    return htonl(first_address + index);
}

std::uint32_t index_of(std::uint32_t address) {
    return ntohl(address) - first_address;
}

Peers::Peers(std::uint16_t port, std::size_t sockets) {
    raise_limit();
    const sockaddr_in local = ipv4(htonl(INADDR_LOOPBACK), port);
    const int on = 1;
    for (std::size_t i = 0; i < sockets; ++i) {
        Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        if (!fd || setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
            bind(fd.get(), reinterpret_cast<const sockaddr*>(&local), sizeof local) != 0) {
            err(1, "cannot make UDP socket %zu on port %u", i, port);
        }
        sockets_.push_back(std::move(fd));
    }
}

int Peers::at(std::uint32_t index) {
    const int fd = sockets_[next_].get();
    next_ = (next_ + 1) % sockets_.size();
    const sockaddr_in remote = ipv4(address_of(index), 40000);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&remote), sizeof remote) != 0) {
        err(1, "cannot connect a UDP socket to address %u", index);
    }
    return fd;
}

Connections::Connections(std::uint16_t port, std::size_t connections) {
    raise_limit();
    const sockaddr_in local = ipv4(htonl(INADDR_LOOPBACK), port);
    const auto* const service = reinterpret_cast<const sockaddr*>(&local);
    const int on = 1;
    const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener.get(), service, sizeof local) != 0 || listen(listener.get(), 16) != 0) {
        err(1, "cannot listen on TCP port %u", port);
    }
    for (std::uint32_t i = 0; i < connections; ++i) {
        const sockaddr_in remote = ipv4(address_of(i), 0);
        Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (bind(client.get(), reinterpret_cast<const sockaddr*>(&remote), sizeof remote) != 0 ||
            connect(client.get(), service, sizeof local) != 0) {
            err(1, "cannot connect from address %u", i);
        }
        clients_.push_back(std::move(client));
        servers_.emplace_back(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    }
}

} // namespace egress::bench
