// The plainest matcher that does what egress.conf(5) says: one loop, every rule. The oracle.
#pragma once

#include <tuple>
#include <vector>

#include "daemon/policy/login/match.h"

namespace egress::policy::reference {

inline bool fits(const Rule& rule, const Address& address, std::string_view interface,
                 const Subject& subject, bool own = false) {
    const auto& location = rule.location;
    const int family = subject.remote.address.is_v4() ? AF_INET : AF_INET6;
    return (location.interface.empty() || location.interface == interface) &&
           (!location.self || own) && (!location.prefix || location.prefix->contains(address)) &&
           (!location.port || *location.port == subject.local.port) &&
           (!rule.type || *rule.type == subject.type) &&
           (!rule.protocol.number || *rule.protocol.number == subject.protocol) &&
           (rule.protocol.family == AF_UNSPEC || rule.protocol.family == family) &&
           (!rule.owner || *rule.owner == subject.uid);
}

/// Greater is more specific; field by field as the manual lists them.
inline auto specificity(const Rule& rule) {
    const auto& location = rule.location;
    const int kind = !location.interface.empty() || location.self ? 2 : location.prefix ? 1 : 0;
    return std::tuple(kind, location.prefix ? int{location.prefix->length} : 0,
                      location.port.has_value(), rule.protocol.number.has_value(),
                      rule.protocol.family != AF_UNSPEC, rule.type.has_value(),
                      rule.owner.has_value());
}

inline const Rule* best(const std::vector<Rule>& rules, const Address& address,
                        std::string_view interface, const Subject& subject, bool own = false) {
    const Rule* found = nullptr;
    for (const auto& rule : rules) {
        if (fits(rule, address, interface, subject, own) &&
            (found == nullptr || specificity(rule) > specificity(*found))) {
            found = &rule;
        }
    }
    return found;
}

inline const Rule* local(const Policy& policy, const Subject& subject) {
    return best(policy.local, subject.local.address, subject.interface, subject);
}

inline const Rule* remote(const Policy& policy, const Subject& subject) {
    return best(policy.remote, subject.remote.address, "", subject, subject.remote_own);
}

} // namespace egress::policy::reference
