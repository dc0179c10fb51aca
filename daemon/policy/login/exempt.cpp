#include "daemon/policy/login/exempt.h"

#include <algorithm>
#include <tuple>

#include <netinet/in.h>

namespace egress::policy {

namespace {

using Target = Exemptions::Target;

bool is_exempt(const Rule& rule) {
    return rule.nfail.kind == Setting<std::uint32_t>::Kind::unlimited;
}

auto specificity(const Rule* rule) {
    return std::tuple(rule->location.port.has_value(), rule->protocol.number.has_value(),
                      rule->protocol.family != AF_UNSPEC, rule->type.has_value());
}

/// The only type of socket that speaks the protocol; 0: several do.
int type_of(std::uint8_t protocol) {
    return protocol == IPPROTO_TCP ? SOCK_STREAM : protocol == IPPROTO_UDP ? SOCK_DGRAM : 0;
}

bool same_family(const Rule& rule, const Target& target) {
    return rule.protocol.family == AF_UNSPEC ||
           rule.protocol.family == target.address.base.family();
}

/// True if the line holds for some of the traffic that the block shuts out.
bool meets(const Rule& rule, const Target& target) {
    const auto may = [](const auto& wanted, int given) {
        return !wanted || given == 0 || *wanted == given;
    };
    return may(rule.location.port, target.port) && may(rule.protocol.number, target.protocol) &&
           may(rule.type, type_of(target.protocol)) && same_family(rule, target);
}

/// True if the line holds for all of the traffic that the block shuts out.
bool covers(const Rule& rule, const Target& target) {
    const auto must = [](const auto& wanted, int given) { return !wanted || *wanted == given; };
    return must(rule.location.port, target.port) && must(rule.protocol.number, target.protocol) &&
           must(rule.type, type_of(target.protocol)) && same_family(rule, target);
}

bool overlap(const Prefix& a, const Prefix& b) {
    return a.contains(b.base) || b.contains(a.base);
}

bool is_within(const Prefix& inner, const Prefix& outer) {
    return inner.length >= outer.length && outer.contains(inner.base);
}

} // namespace

Exemptions::Exemptions(std::span<const Rule> remote) {
    for (const auto& rule : remote) {
        if (rule.owner) {
            continue;
        }
        exempt_ += is_exempt(rule);
        (rule.location.self     ? self_
         : rule.location.prefix ? nodes_[*rule.location.prefix]
                                : any_)
            .push_back(&rule);
    }
    const auto sort = [](Lines& lines) {
        // Equal ones in the order of the text, which is that of the rules in their vector.
        std::ranges::sort(lines, [](const Rule* a, const Rule* b) {
            return std::tuple(specificity(b), a) < std::tuple(specificity(a), b);
        });
    };
    sort(self_);
    sort(any_);
    for (auto& [prefix, lines] : nodes_) {
        sort(lines);
        (prefix.base.is_v4() ? lengths_v4_ : lengths_v6_).push_back(prefix.length);
    }
    for (auto* const lengths : {&lengths_v4_, &lengths_v6_}) {
        std::ranges::sort(*lengths, std::ranges::greater{});
        const auto twice = std::ranges::unique(*lengths);
        lengths->erase(twice.begin(), twice.end());
    }
}

/// What the lines of one location say. `whole`: only a line for all of the target exempts.
Exemptions::Decision Exemptions::decide(const Lines& lines, const Target& target, bool whole) {
    for (const Rule* rule : lines) {
        const bool all = covers(*rule, target);
        if (is_exempt(*rule) && (all || (!whole && meets(*rule, target)))) {
            return {rule, true};
        }
        if (all || (whole && meets(*rule, target))) {
            return {nullptr, true}; // another line decides for the target, or for a part of it
        }
    }
    return {};
}

/// From the target's own location to the widest that has it.
Exemptions::Decision Exemptions::decide_outwards(const Target& target, std::span<const Prefix> own,
                                                 bool whole) const {
    const auto holds = [&](const Prefix& prefix) { return is_within(target.address, prefix); };
    if (!self_.empty() && std::ranges::any_of(own, holds)) {
        if (const auto found = decide(self_, target, whole); found.decided) {
            return found;
        }
    }
    for (const auto length : target.address.base.is_v4() ? lengths_v4_ : lengths_v6_) {
        const auto at = length <= target.address.length
                            ? nodes_.find(Prefix::around(target.address.base, length))
                            : nodes_.end();
        if (at != nodes_.end()) {
            if (const auto found = decide(at->second, target, whole); found.decided) {
                return found;
            }
        }
    }
    return decide(any_, target, whole);
}

const Rule* Exemptions::inside(const Target& target, bool exempt) const {
    const bool v4 = target.address.base.is_v4();
    for (auto at = nodes_.upper_bound(target.address); at != nodes_.end(); ++at) {
        const auto& [prefix, lines] = *at;
        if (prefix.base.is_v4() != v4) {
            if (v4) {
                break; // all of IPv4 is in one piece
            }
            continue;
        }
        if (!target.address.contains(prefix.base)) {
            break;
        }
        const auto found = std::ranges::find_if(lines, [&](const Rule* rule) {
            return is_exempt(*rule) == exempt && meets(*rule, target);
        });
        if (found != lines.end()) {
            return *found;
        }
    }
    return nullptr;
}

const Rule* Exemptions::touching(const Target& target, std::span<const Prefix> own) const {
    if (empty()) {
        return nullptr;
    }
    if (const auto found = decide_outwards(target, own, false); found.exempt != nullptr) {
        return found.exempt;
    }
    const auto met = [&](const Prefix& prefix) { return overlap(prefix, target.address); };
    if (!target.address.is_host() && !self_.empty() && std::ranges::any_of(own, met)) {
        const auto found = std::ranges::find_if(
            self_, [&](const Rule* rule) { return is_exempt(*rule) && meets(*rule, target); });
        if (found != self_.end()) {
            return *found;
        }
    }
    return inside(target, true);
}

const Rule* Exemptions::covering(const Target& target, std::span<const Prefix> own) const {
    if (empty()) {
        return nullptr;
    }
    const auto found = decide_outwards(target, own, true);
    return found.exempt != nullptr && inside(target, false) == nullptr ? found.exempt : nullptr;
}

} // namespace egress::policy
