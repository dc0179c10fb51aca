#include "daemon/policy/text/names.h"

#include <array>
#include <fstream>
#include <sstream>
#include <utility>

#include <net/if.h>
#include <sys/socket.h>

#include "daemon/base/number.h"
#include "lib/fd.h"

namespace egress::policy {

namespace {

/// IANA's numbers, for a machine without a list.
constexpr std::pair<const char*, std::uint16_t> usual_services[] = {
    {"ftp", 21},    {"ssh", 22},          {"telnet", 23},      {"smtp", 25},      {"domain", 53},
    {"http", 80},   {"pop3", 110},        {"imap2", 143},      {"imap", 143},     {"https", 443},
    {"ldap", 389},  {"submissions", 465}, {"submission", 587}, {"ldaps", 636},    {"imaps", 993},
    {"pop3s", 995}, {"openvpn", 1194},    {"sip", 5060},       {"sip-tls", 5061},
};

template <typename Map>
std::vector<std::string_view> keys(const Map& map) {
    std::vector<std::string_view> out;
    out.reserve(map.size());
    for (const auto& entry : map) {
        out.emplace_back(entry.first);
    }
    return out;
}

} // namespace

/// services(5): "name port/protocol alias...", '#' starts a comment.
void LocalNames::load_services() {
    if (std::exchange(services_loaded_, true)) {
        return;
    }
    std::ifstream file(root_ + "/etc/services");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line.substr(0, line.find('#')));
        std::string name;
        std::string number;
        words >> name >> number;
        const auto slash = number.find('/');
        const auto port = parse_decimal<std::uint16_t>(std::string_view(number).substr(0, slash));
        if (slash == std::string::npos || !port || *port == 0) {
            continue;
        }
        const auto protocol = number.substr(slash + 1);
        const Service service{*port, protocol == "tcp" ? 0 : protocol == "udp" ? 1 : 2};
        do {
            const auto [at, added] = services_.try_emplace(name, service);
            if (!added && service.rank < at->second.rank) {
                at->second = service;
            }
        } while (words >> name);
    }
    for (const auto& [name, port] : usual_services) {
        services_.try_emplace(name, Service{port, 0});
    }
}

std::optional<std::uint16_t> LocalNames::port(std::string_view service) {
    load_services();
    const auto at = services_.find(service);
    return at == services_.end() ? std::nullopt : std::optional(at->second.port);
}

const Ids& LocalNames::user_ids() {
    if (!users_) {
        users_.emplace(root_ + "/etc/passwd");
    }
    return *users_;
}

const Ids& LocalNames::group_ids() {
    if (!groups_) {
        groups_.emplace(root_ + "/etc/group");
    }
    return *groups_;
}

std::vector<std::string_view> LocalNames::services() {
    load_services();
    return keys(services_);
}

std::vector<std::string_view> LocalNames::users() {
    return keys(user_ids().all());
}

std::vector<std::string_view> LocalNames::groups() {
    return keys(group_ids().all());
}

bool LocalNames::interface_exists(std::string_view name) {
    return name.size() < IF_NAMESIZE && if_nametoindex(std::string(name).c_str()) != 0;
}

std::uint16_t LocalNames::unprivileged_port() {
    constexpr int usual = 1024;
    int port = usual;
    std::ifstream in("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if (!(in >> port) || port < 0 || port > 65535) {
        port = usual;
    }
    return static_cast<std::uint16_t>(port);
}

bool LocalNames::tells_peers() {
    constexpr int peer_pidfd = 77; // SO_PEERPIDFD, which the C library's headers lack
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return true; // not known
    }
    const Fd one(ends[0]);
    const Fd other(ends[1]);
    int pidfd = -1;
    socklen_t length = sizeof pidfd;
    const bool told = getsockopt(one.get(), SOL_SOCKET, peer_pidfd, &pidfd, &length) == 0;
    const Fd peer(pidfd);
    return told;
}

} // namespace egress::policy
