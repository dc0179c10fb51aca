#include "helper/kill.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>

namespace egress::helper {

namespace {

// States from the kernel's include/net/tcp_states.h, which user space cannot include.
constexpr std::uint32_t time_wait = 6;
constexpr std::uint32_t close_state = 7;
constexpr std::uint32_t listen_state = 10;
constexpr std::uint32_t new_syn_recv = 12; ///< half-open: the server has no socket of it
constexpr std::uint32_t connected_states =
    ((1U << (new_syn_recv + 1)) - 2) & ~(1U << time_wait | 1U << close_state | 1U << listen_state);

constexpr std::size_t buffer_size = 512;

struct Socket {
    std::uint8_t family;
    inet_diag_sockid id;
};

inet_diag_req_v2* request_body(char* buffer, std::uint16_t type, std::uint16_t flags, int family,
                               std::uint8_t protocol) {
    nlmsghdr* const header = mnl_nlmsg_put_header(buffer);
    header->nlmsg_type = type;
    header->nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
    auto* const body = static_cast<inet_diag_req_v2*>(
        mnl_nlmsg_put_extra_header(header, sizeof(inet_diag_req_v2)));
    body->sdiag_family = static_cast<std::uint8_t>(family);
    body->sdiag_protocol = protocol;
    return body;
}

/// Lets the kernel skip addresses outside the prefix, so that it does not copy a busy server's
/// other connections. It also applies IPv4 prefixes to mapped addresses of IPv6 sockets.
void put_filter(nlmsghdr* request, const Prefix& source) {
    const auto bytes = source.base.bytes();
    inet_diag_bc_op op{};
    inet_diag_hostcond condition{};
    const auto size = static_cast<std::uint8_t>(sizeof op + sizeof condition + bytes.size());
    op.code = INET_DIAG_BC_D_COND;
    op.yes = size;
    op.no = static_cast<std::uint16_t>(size + 4); // past the end: no match
    condition.family = static_cast<std::uint8_t>(source.base.family());
    condition.prefix_len = source.length;
    condition.port = -1;
    std::array<char, 64> filter{};
    std::memcpy(filter.data(), &op, sizeof op);
    std::memcpy(filter.data() + sizeof op, &condition, sizeof condition);
    std::memcpy(filter.data() + sizeof op + sizeof condition, bytes.data(), bytes.size());
    mnl_attr_put(request, INET_DIAG_REQ_BYTECODE, size, filter.data());
}

/// True if the kernel's answer matches the target: no other socket may be destroyed.
bool matches(const inet_diag_msg& socket, std::uint8_t protocol, const Target& target,
             const Exemptions& exemptions) {
    const std::size_t size = socket.idiag_family == AF_INET ? 4 : 16;
    std::array<std::uint8_t, 16> raw{};
    std::memcpy(raw.data(), socket.id.idiag_dst, raw.size());
    const auto remote = Address::from_bytes(std::span(raw).first(size));
    const std::uint16_t port = ntohs(socket.id.idiag_sport);
    const bool peerless = socket.id.idiag_dport == 0;
    return !peerless && remote && target.source.contains(*remote) &&
           (target.port == 0 || target.port == port) && !exemptions.pass(*remote, protocol, port);
}

Result<std::vector<Socket>> find(Netlink& netlink, int family, std::uint8_t protocol,
                                 const Target& target, const Exemptions& exemptions) {
    char buffer[buffer_size];
    request_body(buffer, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, protocol)->idiag_states =
        connected_states;
    auto* const request = reinterpret_cast<nlmsghdr*>(buffer);
    put_filter(request, target.source);
    std::vector<Socket> found;
    const auto take = [&](const nlmsghdr* message) {
        inet_diag_msg socket{};
        if (mnl_nlmsg_get_payload_len(message) >= sizeof socket) {
            std::memcpy(&socket, mnl_nlmsg_get_payload(message), sizeof socket);
            if (matches(socket, protocol, target, exemptions)) {
                found.push_back(Socket{socket.idiag_family, socket.id});
            }
        }
    };
    if (auto asked = netlink.ask(
            request, [&] { found.clear(); }, take);
        !asked) {
        return std::unexpected(asked.error());
    }
    return found;
}

/// False: the socket was already gone.
Result<bool> destroy(Netlink& netlink, const Socket& socket, std::uint8_t protocol) {
    char buffer[buffer_size];
    request_body(buffer, SOCK_DESTROY, NLM_F_ACK, socket.family, protocol)->id = socket.id;
    const auto asked = netlink.ask(
        reinterpret_cast<nlmsghdr*>(buffer), [] {}, [](const nlmsghdr*) {});
    if (asked) {
        return true;
    }
    if (asked.error().code == ENOENT) {
        return false;
    }
    return std::unexpected(kernel_error("cannot cut a connection", asked.error().code));
}

} // namespace

Result<std::size_t> kill_sockets(const Target& target, const Exemptions& exemptions) {
    std::vector<std::uint8_t> protocols;
    for (const std::uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
        if (target.protocol == 0 || target.protocol == protocol) {
            protocols.push_back(protocol);
        }
    }
    if (protocols.empty()) {
        return fail("only connections of tcp and udp can be cut");
    }
    auto netlink = Netlink::open(NETLINK_SOCK_DIAG);
    if (!netlink) {
        return std::unexpected(netlink.error());
    }
    std::size_t killed = 0;
    for (const auto protocol : protocols) {
        // An IPv4 connection may use a socket of either family.
        for (const int family : {AF_INET, AF_INET6}) {
            if (family == AF_INET && !target.source.base.is_v4()) {
                continue;
            }
            const auto sockets = find(*netlink, family, protocol, target, exemptions);
            if (!sockets) {
                return std::unexpected(sockets.error());
            }
            for (const Socket& socket : *sockets) {
                const auto destroyed = destroy(*netlink, socket, protocol);
                if (!destroyed) {
                    return std::unexpected(destroyed.error());
                }
                killed += *destroyed ? 1 : 0;
            }
        }
    }
    return killed;
}

} // namespace egress::helper
