#include "daemon/policy/rules/rule.h"

#include <algorithm>

namespace egress::policy {

bool same_meaning(const Rule& a, const Rule& b) {
    return a.location == b.location && a.type == b.type && a.protocol == b.protocol &&
           a.owner == b.owner && a.absent_owner == b.absent_owner && a.name == b.name &&
           a.nfail == b.nfail && a.disable == b.disable && a.options == b.options;
}

bool same_meaning(const Trusted& a, const Trusted& b) {
    return a.location == b.location && a.type == b.type && a.protocol == b.protocol &&
           a.owner == b.owner && a.absent_owner == b.absent_owner && a.cgroup == b.cgroup;
}

bool is_for(const Trusted& line, const Endpoint& local, int type, int protocol) {
    const auto& location = line.location;
    return (!location.prefix || location.prefix->contains(local.address)) &&
           location.port.value_or(local.port) == local.port && line.type.value_or(type) == type &&
           line.protocol.number.value_or(protocol) == protocol &&
           (line.protocol.family == AF_UNSPEC || line.protocol.family == local.address.family());
}

int family_of(const Location& location, const Protocol& protocol) {
    return location.prefix ? location.prefix->base.family() : protocol.family;
}

bool same_meaning(const Policy& a, const Policy& b) {
    const auto same = [](const auto& x, const auto& y) { return same_meaning(x, y); };
    const auto same_list = [](const auto& x, const auto& y) { return same_meaning(*x, *y); };
    return std::ranges::equal(a.local, b.local, same) &&
           std::ranges::equal(a.remote, b.remote, same) &&
           std::ranges::equal(a.trusted, b.trusted, same) &&
           std::ranges::equal(a.egress, b.egress, same) &&
           std::ranges::equal(a.lists, b.lists, same_list) && a.settings == b.settings &&
           same_meaning(a.dns, b.dns);
}

} // namespace egress::policy
