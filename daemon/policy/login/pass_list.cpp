#include "daemon/policy/login/pass_list.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include <netinet/in.h>
#include <sys/socket.h>

namespace egress::policy {

namespace {

bool never_blocks(const Rule& rule) {
    using Nfail = Setting<std::uint32_t>;
    using Disable = Setting<Seconds>;
    return rule.nfail.kind == Nfail::Kind::unlimited ||
           (rule.disable.kind == Disable::Kind::value && rule.disable.value == 0);
}

/// The protocol of the packets that a line's type and protocol mean; nullopt: none that is known.
std::optional<std::uint8_t> protocol_of(const Rule& rule) {
    if (const auto number = rule.protocol.number) {
        const bool fits = *number > 0 && *number <= 255;
        return fits ? std::optional(static_cast<std::uint8_t>(*number)) : std::nullopt;
    }
    switch (rule.type.value_or(0)) {
    case 0:
        return std::uint8_t{0};
    case SOCK_STREAM:
        return std::uint8_t{IPPROTO_TCP};
    case SOCK_DGRAM:
        return std::uint8_t{IPPROTO_UDP};
    default:
        return std::nullopt;
    }
}

auto target(const PassEntry& entry) {
    return std::tuple(entry.source, entry.protocol, entry.port);
}

/// Where a line's packets come from.
std::vector<Prefix> sources_of(const Location& location, std::span<const Prefix> own) {
    if (location.self) {
        return {own.begin(), own.end()};
    }
    if (location.prefix) {
        return {*location.prefix};
    }
    return {*Prefix::parse("0.0.0.0/0"), *Prefix::parse("::/0")};
}

} // namespace

std::vector<PassEntry> pass_list(std::span<const Rule> remote, std::span<const Prefix> own) {
    struct Candidate {
        PassEntry entry;
        int rank; ///< of what else the line gives: lines for the same packets differ in no more
    };
    std::vector<Candidate> candidates;
    const auto add = [&](const Rule& rule, const Prefix& source, std::uint8_t protocol) {
        const int rank = (rule.location.self ? 8 : 0) + (rule.location.prefix ? 4 : 0) +
                         (rule.protocol.family != AF_UNSPEC ? 2 : 0) + (rule.type ? 1 : 0);
        candidates.push_back(
            {{source, protocol, rule.location.port.value_or(0), never_blocks(rule)}, rank});
    };
    for (const Rule& rule : remote) {
        const auto protocol = protocol_of(rule);
        if (!protocol || (rule.owner && never_blocks(rule))) {
            continue;
        }
        for (const Prefix& source : sources_of(rule.location, own)) {
            // "tcp6" matches no IPv4 address, and "tcp4" none of IPv6.
            if (rule.protocol.family != (source.base.is_v4() ? AF_INET6 : AF_INET)) {
                add(rule, source, *protocol);
            }
        }
    }
    // Of equal lines the first one decides.
    std::ranges::stable_sort(candidates, {}, [](const Candidate& each) {
        return std::tuple(target(each.entry), -each.rank);
    });
    // A line that blocks matters only inside one that exempts. In this order a prefix follows those
    // that contain it.
    std::vector<Prefix> around;
    std::vector<PassEntry> out;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
        const PassEntry& each = candidates[i].entry;
        if (i > 0 && target(candidates[i - 1].entry) == target(each)) {
            continue;
        }
        while (!around.empty() && !around.back().contains(each.source.base)) {
            around.pop_back();
        }
        if (each.passes) {
            around.push_back(each.source);
        }
        if (!around.empty()) {
            out.push_back(each);
        }
    }
    return out;
}

} // namespace egress::policy
