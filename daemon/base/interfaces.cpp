#include "daemon/base/interfaces.h"

#include <array>
#include <memory>

#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

namespace egress {

Interfaces::Interfaces()
    : monitor_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE)) {
    sockaddr_nl groups{};
    groups.nl_family = AF_NETLINK;
    groups.nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_LINK;
    if (monitor_ &&
        bind(monitor_.get(), reinterpret_cast<sockaddr*>(&groups), sizeof groups) != 0) {
        monitor_.reset();
    }
    refresh();
}

void Interfaces::refresh() {
    std::array<char, 8192> discarded{};
    while (monitor_ && recv(monitor_.get(), discarded.data(), discarded.size(), MSG_DONTWAIT) > 0) {
    }
    ifaddrs* raw = nullptr;
    if (getifaddrs(&raw) != 0) {
        return; // keep the previous addresses
    }
    const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> list(raw, &freeifaddrs);
    names_.clear();
    for (const ifaddrs* entry = raw; entry != nullptr; entry = entry->ifa_next) {
        // The kernel's structs are always long enough for their family.
        if (const auto address = Address::from(entry->ifa_addr, sizeof(sockaddr_storage))) {
            names_.emplace(*address, entry->ifa_name);
        }
    }
}

std::string_view Interfaces::name_of(const Address& address) const {
    const auto found = names_.find(address);
    return found == names_.end() ? std::string_view() : std::string_view(found->second);
}

} // namespace egress
