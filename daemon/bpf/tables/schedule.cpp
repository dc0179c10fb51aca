#include "daemon/bpf/tables/schedule.h"

#include <algorithm>
#include <limits>
#include <vector>

#include <fmt/format.h>

#include "daemon/policy/egress/check.h"

namespace egress::bpf {

namespace {

constexpr std::uint32_t day = 24 * 60; // in minutes
constexpr std::uint32_t week = 7 * day;
constexpr std::int64_t second = 1'000'000'000;

struct Span {
    std::uint32_t from; // minutes of the week
    std::uint32_t to;
};

/// One span per day; a span across Sunday's midnight becomes two.
std::vector<Span> spans_of(const std::vector<policy::Window>& windows) {
    std::vector<Span> spans;
    for (const auto& window : windows) {
        for (std::uint32_t d = 0; d < window.days.size(); ++d) {
            if (!window.days[d]) {
                continue;
            }
            const std::uint32_t from = d * day + window.from;
            const std::uint32_t to = d * day + window.to + (window.to > window.from ? 0 : day);
            spans.push_back({from, std::min(to, week)});
            if (to > week) {
                spans.push_back({0, to - week});
            }
        }
    }
    return spans;
}

/// The spans sorted, and joined where they touch.
std::vector<Span> joined(std::vector<Span> spans) {
    std::ranges::sort(spans, {}, &Span::from);
    std::vector<Span> out;
    for (const auto& span : spans) {
        if (!out.empty() && span.from <= out.back().to) {
            out.back().to = std::max(out.back().to, span.to);
        } else {
            out.push_back(span);
        }
    }
    return out;
}

std::uint8_t verdict_of(policy::Verdict::Kind kind) {
    switch (kind) {
    case policy::Verdict::Kind::allow:
        return EGRESS_ALLOW;
    case policy::Verdict::Kind::reject:
        return EGRESS_REJECT;
    default:
        return EGRESS_DENY;
    }
}

} // namespace

Result<egress_rule> compile_rule(const policy::EgressRule& rule, std::int64_t wall_at_boot) {
    if (const auto reason = not_yet(rule); !reason.empty()) {
        return fail(fmt::format("{}: {}", rule.place.text(), reason));
    }
    const auto& options = rule.options;
    egress_rule out{};
    out.verdict = verdict_of(rule.verdict.kind);
    out.flags = static_cast<std::uint16_t>(
        (options.audit ? EGRESS_RULE_AUDIT : 0) | (options.log ? EGRESS_RULE_LOG : 0) |
        (options.quiet ? EGRESS_RULE_QUIET : 0) | (options.alarm ? EGRESS_RULE_ALARM : 0) |
        (options.until || !options.when.empty() ? EGRESS_RULE_TIMED : 0) |
        (rule.destination.ports.empty() ? 0 : EGRESS_RULE_PORTS));
    if (options.until) {
        // 64 bits of nanoseconds last 584 years; a rule may last until the year 9999.
        constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / second;
        const auto seconds = std::clamp<std::int64_t>(*options.until - wall_at_boot, 0, most);
        out.until = static_cast<std::uint64_t>(std::max<std::int64_t>(seconds * second, 1));
    }
    const auto spans = joined(spans_of(options.when));
    if (spans.size() > EGRESS_MAX_WINDOWS) {
        return fail(fmt::format("{}: {} spans of time in a week; {} are the most",
                                rule.place.text(), spans.size(), EGRESS_MAX_WINDOWS));
    }
    for (const auto& span : spans) {
        out.windows[out.windows_used++] = {span.from * 60, span.to * 60};
    }
    return out;
}

} // namespace egress::bpf
