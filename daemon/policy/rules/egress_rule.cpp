#include "daemon/policy/rules/egress_rule.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace egress::policy {

namespace {

constexpr std::array<std::pair<std::string_view, Destination::Kind>, 5> classes = {
    {{"internet", Destination::Kind::internet},
     {"private", Destination::Kind::private_},
     {"local", Destination::Kind::local},
     {"multicast", Destination::Kind::multicast},
     {"broadcast", Destination::Kind::broadcast}}};

constexpr std::array<std::string_view, 5> verdicts = {"allow", "deny", "reject", "redirect", "ask"};

} // namespace

std::string_view verdict_name(Verdict::Kind kind) {
    return verdicts[static_cast<std::size_t>(kind)];
}

std::span<const std::string_view> verdict_names() {
    return verdicts;
}

std::optional<Verdict::Kind> verdict_of(std::string_view name) {
    const auto* const at = std::ranges::find(verdicts, name);
    return at != verdicts.end() ? std::optional(static_cast<Verdict::Kind>(at - verdicts.begin()))
                                : std::nullopt;
}

std::string_view class_name(Destination::Kind kind) {
    const auto* const at =
        std::ranges::find(classes, kind, [](const auto& one) { return one.second; });
    return at != classes.end() ? at->first : std::string_view();
}

std::optional<Destination::Kind> class_of(std::string_view name) {
    const auto* const at =
        std::ranges::find(classes, name, [](const auto& one) { return one.first; });
    return at != classes.end() ? std::optional(at->second) : std::nullopt;
}

bool is_name(const Destination& destination) {
    using Kind = Destination::Kind;
    return destination.kind == Kind::name || destination.kind == Kind::below ||
           destination.kind == Kind::any_below;
}

NamePatterns::Pattern pattern_of(const Destination& destination) {
    using Kind = Destination::Kind;
    return {destination.kind == Kind::name    ? NameKind::exact
            : destination.kind == Kind::below ? NameKind::one
                                              : NameKind::deep,
            destination.text};
}

std::size_t count_spans(const std::vector<Window>& windows) {
    constexpr std::size_t day = 1440; // minutes
    constexpr std::size_t week = 7 * day;
    std::bitset<week> minutes;
    for (const auto& window : windows) {
        const std::size_t length =
            window.to > window.from ? window.to - window.from : day - window.from + window.to;
        for (std::size_t d = 0; d < window.days.size(); ++d) {
            for (std::size_t i = 0; window.days[d] && i < length; ++i) {
                minutes.set((d * day + window.from + i) % week);
            }
        }
    }
    std::size_t spans = 0;
    for (std::size_t i = 0; i < week; ++i) {
        spans += minutes[i] && (i == 0 || !minutes[i - 1]) ? 1 : 0;
    }
    return spans;
}

bool same_meaning(const EgressRule& a, const EgressRule& b) {
    return a.destination == b.destination && a.type == b.type && a.protocol == b.protocol &&
           a.owner == b.owner && a.program == b.program && a.verdict == b.verdict &&
           a.options == b.options;
}

bool same_meaning(const Dns& a, const Dns& b) {
    return a.resolvers == b.resolvers && a.grace == b.grace && a.refresh == b.refresh &&
           a.queries_listed == b.queries_listed && a.others == b.others;
}

bool same_meaning(const AddressList& a, const AddressList& b) {
    return a.name == b.name && a.prefixes == b.prefixes && a.names == b.names;
}

} // namespace egress::policy
