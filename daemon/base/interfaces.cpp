#include "daemon/base/interfaces.h"

#include <algorithm>
#include <array>
#include <memory>

#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

namespace egress {

namespace {

/// The whole network is this host, whatever addresses its interface lists.
const Prefix loopback_v4 = *Prefix::parse("127.0.0.0/8");
const Prefix loopback_v6 = *Prefix::parse("::1");

} // namespace

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
    own_ = {loopback_v4, loopback_v6};
    for (const auto& [address, name] : names_) {
        if (!loopback_v4.contains(address) && !loopback_v6.contains(address)) {
            own_.push_back(Prefix::host(address));
        }
    }
    std::ranges::sort(own_);
}

bool Interfaces::is_own(const Address& address) const {
    return names_.contains(address) || loopback_v4.contains(address) ||
           loopback_v6.contains(address);
}

std::string_view Interfaces::name_of(const Address& address) const {
    const auto found = names_.find(address);
    return found == names_.end() ? std::string_view() : std::string_view(found->second);
}

} // namespace egress
