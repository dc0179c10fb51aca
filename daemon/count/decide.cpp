#include "daemon/count/decide.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace egress {

namespace {

using store::State;

/// Strikes are kept for at least this long after a block ends (seconds).
constexpr Seconds least_memory = 24 * 60 * 60;

std::uint32_t add_saturating(std::uint32_t count, std::uint32_t more) {
    return count > std::numeric_limits<std::uint32_t>::max() - more
               ? std::numeric_limits<std::uint32_t>::max()
               : count + more;
}

void prune(Past& past, Seconds window, Moment now) {
    const auto expired = [&](const auto& entry) { return unpack(entry.first) + window <= now; };
    std::erase_if(past, expired);
}

std::uint32_t total(const Past& past) {
    return std::accumulate(past.begin(), past.end(), std::uint32_t{0},
                           [](std::uint32_t sum, const auto& entry) { return sum + entry.second; });
}

/// Exact up to max_history failures at different times; then merges the oldest two entries at the
/// later time, so that a failure may count a little too long but never too short.
void remember(Past& past, Moment now, std::uint32_t failures) {
    const auto added = static_cast<std::uint16_t>(std::min<std::uint32_t>(failures, 0xffff));
    if (!past.empty() && past.back().first == pack(now) && past.back().second <= 0xffff - added) {
        past.back().second = static_cast<std::uint16_t>(past.back().second + added);
        return;
    }
    if (past.size() >= store::max_history) {
        const auto sum =
            std::min<std::uint32_t>(0xffff, past[0].second + std::uint32_t{past[1].second});
        past[1].second = static_cast<std::uint16_t>(sum);
        past.erase(past.begin());
    }
    past.emplace_back(pack(now), added);
}

std::uint32_t counted_after(const policy::EffectiveRule& rule, const Count& before, Past& past,
                            Action action, Moment now) {
    const bool windowed = rule.window != forever;
    std::uint32_t count = before.count;
    if (windowed) {
        if (past.empty() && count > 0) { // counted when the rule had no window
            remember(past, before.last, count);
        }
        prune(past, rule.window, now);
        count = total(past);
    }
    std::uint32_t added = 1;
    if (action == Action::abusive && rule.limited && rule.nfail > count) {
        added = rule.nfail - count;
    }
    if (windowed) {
        remember(past, now, added);
    }
    return add_saturating(count, added);
}

/// When a counting row is deleted.
Moment forgotten_at(const policy::EffectiveRule& rule, const Count& counted) {
    const Seconds age = rule.window != forever ? rule.window : rule.disable;
    const Seconds memory = counted.strikes > 0 ? std::max(age, least_memory) : age;
    return after(counted.last, memory);
}

RowChange succeed(const policy::EffectiveRule& rule, const Count& before, Past& past) {
    RowChange outcome{before, Effect::none};
    if (rule.keep ||
        (before.state == State::blocked && (before.by_hand || before.until == never))) {
        return outcome;
    }
    past.clear();
    outcome.next.count = 0;
    if (before.state == State::blocked) {
        outcome.next.state = State::releasing;
        outcome.next.since = 0;
        outcome.next.until = never;
        outcome.effect = Effect::lift;
    } else if (before.state == State::counting) {
        outcome.effect = before.strikes == 0 ? Effect::forget : Effect::none;
        outcome.next.until = forgotten_at(rule, outcome.next);
    }
    return outcome;
}

} // namespace

Seconds block_time(const policy::EffectiveRule& rule, std::uint16_t strikes) {
    if (rule.disable == forever) {
        return forever;
    }
    constexpr double ceiling = 1e15; // beyond any clock, exact in a double
    double seconds = static_cast<double>(rule.disable);
    for (int i = 1; i < strikes && seconds < ceiling && rule.escalate_percent > 100; ++i) {
        seconds = seconds * rule.escalate_percent / 100.0;
    }
    const auto time = static_cast<Seconds>(std::min(seconds, ceiling));
    // `max` bounds the escalation; it never shortens the rule's own time.
    return std::max(rule.disable, std::min(time, rule.max));
}

RowChange decide(const policy::EffectiveRule& rule, const Count& before, Past& past, Action action,
                 Moment now) {
    if (action == Action::ok) {
        return succeed(rule, before, past);
    }
    RowChange outcome{before, Effect::none};
    Count& next = outcome.next;
    next.count = counted_after(rule, before, past, action, now);
    next.last = now;
    if (before.state == State::blocked) {
        next.count = std::max(next.count, before.count);
        if (rule.limited && !before.by_hand && before.until != never) {
            const auto strikes = std::max<std::uint16_t>(before.strikes, 1);
            next.until = std::max(before.until, after(now, block_time(rule, strikes)));
            outcome.effect = next.until != before.until ? Effect::extend : Effect::none;
        }
        return outcome;
    }
    if (rule.limited && next.count >= rule.nfail) {
        // Keep strikes only under a rule with escalation.
        const bool escalates = rule.escalate_percent > 100;
        next.strikes =
            static_cast<std::uint16_t>(escalates ? std::min(before.strikes + 1, 0xffff) : 0);
        next.state = State::blocked;
        next.by_hand = false;
        next.since = now;
        next.until = after(now, block_time(rule, next.strikes));
        outcome.effect = Effect::block;
        return outcome;
    }
    // A releasing row stays so; its count starts again meanwhile.
    next.until = before.state == State::releasing ? never : forgotten_at(rule, next);
    return outcome;
}

RowChange expire(const Count& counted) {
    RowChange outcome{counted, Effect::forget};
    if (counted.state == State::blocked) {
        outcome.next.state = State::releasing;
        outcome.next.count = 0;
        outcome.next.since = 0;
        outcome.next.until = never;
        outcome.effect = Effect::lift;
    }
    return outcome;
}

RowChange released(const Count& counted, Moment now) {
    RowChange outcome{counted, Effect::none};
    outcome.next.state = State::counting;
    outcome.next.until = after(now, least_memory);
    if (counted.count == 0 && counted.strikes == 0) {
        outcome.effect = Effect::forget;
    }
    return outcome;
}

} // namespace egress
