#include "helper/exempt.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include <netinet/in.h>

namespace egress::helper {

namespace {

/// Smaller is more specific.
auto rank(const SetId& set) {
    const bool port = set.shape == Shape::exact || set.shape == Shape::port;
    const bool protocol = set.shape == Shape::exact || set.shape == Shape::protocol;
    return std::tuple(set.v6, -int{set.length}, !port, !protocol, set.action);
}

bool may_have_ports(std::uint8_t protocol) {
    return protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6;
}

} // namespace

Exemptions::Exemptions(std::vector<Exemption> list) {
    std::vector<std::size_t> order(list.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::sort(order, {}, [&](std::size_t i) { return std::pair(list[i].target, i); });
    std::vector<Exemption> kept;
    for (const std::size_t i : order) {
        const Exemption& each = list[i];
        if (!kept.empty() && kept.back().target == each.target) {
            kept.back() = each;
        } else {
            kept.push_back(each);
        }
    }
    const auto set_for = [](const Exemption& each) {
        return set_of(exempt_chain, each.target, each.passes ? Action::pass : Action::hold);
    };
    for (const Exemption& each : kept) {
        const SetId set = set_for(each);
        auto group = std::ranges::find(groups_, set, &Group::set);
        if (group == groups_.end()) {
            group = groups_.insert(group, Group{set, {}});
        }
        group->targets.push_back(each.target);
    }
    std::ranges::sort(groups_, {}, [](const Group& group) { return rank(group.set); });
    size_ = kept.size();
}

bool Exemptions::pass(const Address& source, std::uint8_t protocol, std::uint16_t port) const {
    for (const auto& [set, targets] : groups_) {
        if (set.v6 == source.is_v4()) {
            continue;
        }
        Target asked{Prefix::around(source, set.length), 0, 0};
        if (set.shape == Shape::exact || set.shape == Shape::protocol) {
            asked.protocol = protocol;
        }
        if (set.shape == Shape::exact || set.shape == Shape::port) {
            if (!may_have_ports(protocol)) {
                continue;
            }
            asked.port = port;
        }
        if (std::ranges::binary_search(targets, asked)) {
            return set.action == Action::pass;
        }
    }
    return false;
}

} // namespace egress::helper
