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
        std::size_t line;
    };
    std::vector<Candidate> candidates;
    const auto add = [&](const Rule& rule, const Prefix& source, std::uint8_t protocol) {
        const int rank = (rule.location.self ? 8 : 0) + (rule.location.prefix ? 4 : 0) +
                         (rule.protocol.family != AF_UNSPEC ? 2 : 0) + (rule.type ? 1 : 0);
        candidates.push_back(
            {{source, protocol, rule.location.port.value_or(0), never_blocks(rule)},
             rank,
             candidates.size()});
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
    // Each family in one piece: in this order a prefix follows those that contain it.
    std::ranges::sort(candidates, {}, [](const Candidate& each) {
        return std::tuple(each.entry.source.base.is_v4(), target(each.entry), -each.rank,
                          each.line);
    });
    // Of equal lines the first one decides.
    const auto twice = std::ranges::unique(
        candidates, {}, [](const Candidate& each) { return target(each.entry); });
    candidates.erase(twice.begin(), twice.end());
    // A line that blocks matters only where one of the same or a wider prefix exempts.
    std::vector<Prefix> around;
    std::vector<PassEntry> out;
    for (auto at = candidates.begin(); at != candidates.end();) {
        const Prefix source = at->entry.source;
        const auto next = std::find_if(at, candidates.end(), [&](const Candidate& each) {
            return each.entry.source != source;
        });
        while (!around.empty() && !around.back().contains(source.base)) {
            around.pop_back();
        }
        if (std::any_of(at, next, [](const Candidate& each) { return each.entry.passes; })) {
            around.push_back(source);
        }
        for (; at != next; ++at) {
            if (!around.empty()) {
                out.push_back(at->entry);
            }
        }
    }
    std::ranges::sort(out);
    return out;
}

} // namespace egress::policy
