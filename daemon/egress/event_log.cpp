#include "daemon/egress/event_log.h"

#include <algorithm>
#include <tuple>

#include "daemon/base/json_text.h"
#include "daemon/store/json.h"

namespace egress {

namespace {

EventLog::Kind kind_of(const EventView& view) {
    using Kind = EventLog::Kind;
    const auto& event = view.event;
    return view.selftest                                 ? Kind::selftest
           : (event.rule_flags & EGRESS_RULE_ALARM) != 0 ? Kind::alarm
           : event.action == EGRESS_EVENT_BLOCKED        ? Kind::blocked
           : event.action == EGRESS_EVENT_MONITOR        ? Kind::monitored
           : (event.rule_flags & EGRESS_RULE_LOG) != 0   ? Kind::allowed
                                                         : Kind::unmatched;
}

log::Level level_of(EventLog::Kind kind) {
    constexpr log::Level levels[EventLog::kinds] = {log::Level::warning, log::Level::notice,
                                                    log::Level::notice,  log::Level::info,
                                                    log::Level::debug,   log::Level::info};
    return levels[static_cast<std::size_t>(kind)];
}

} // namespace

EventLog::Limits EventLog::limits_of(Kind kind) {
    switch (kind) {
    case Kind::alarm:
        return {100, 200, 1'000, 20, 1'000};
    case Kind::blocked:
    case Kind::monitored:
        return {60, 120, 600, 10, 300};
    case Kind::allowed:
    case Kind::unmatched:
    case Kind::selftest:
        break;
    }
    return {30, 60, 300, 5, 150};
}

void EventLog::Share::miss(std::uint64_t more_checks, std::int64_t now) {
    since = events == 0 ? now : since;
    ++events;
    checks += more_checks;
}

void EventLog::Share::take(const Share& other) {
    since = events == 0 ? other.since : std::min(since, other.since);
    events += other.events;
    checks += other.checks;
}

bool EventLog::is_free(const Limits& limits, Window& in, std::uint32_t uid, const User& user,
                       const Share& share) const {
    const bool within = share.written < limits.of_line && user.written < limits.of_user;
    const bool first = share.written < first_of_line && user.written < limits.of_user + beyond_user;
    if (!within && !first) {
        return false;
    }
    if (uid == 0) {
        return true; // root has its own share, whatever the others use
    }
    unsigned& part = user.written < limits.first_of_user && in.all_first < limits.all_first
                         ? in.all_first
                         : in.all;
    if (&part == &in.all && in.all >= limits.all) {
        return false;
    }
    ++part;
    return true;
}

bool EventLog::write_line(Kind kind, const std::string& line) {
    constexpr const char* keys[kinds] = {"egress-alarm",   "egress-blocked",   "egress-monitor",
                                         "egress-allowed", "egress-unmatched", "egress-selftest"};
    return log::write_whole(level_of(kind), keys[static_cast<std::size_t>(kind)], line,
                            kind == Kind::alarm);
}

void EventLog::take(const EventView& view) {
    const auto kind = kind_of(view);
    const auto& event = view.event;
    counters_[static_cast<std::size_t>(kind)].checks += event.count;
    if (level_of(kind) > log::threshold()) {
        return;
    }
    const auto place = view.rule == nullptr ? std::string() : view.rule->place.text();
    add({kind, event.flow.uid, event.generation, event.rule, event.count, place},
        [&view] { return view.json(); });
}

void EventLog::add(const Event& event, const std::function<std::string()>& text) {
    const auto kind = static_cast<std::size_t>(event.kind);
    Window& in = windows_[kind];
    if (in.start != never && clock_.now() - in.start >= window) {
        settle(event.kind);
    }
    if (in.start == never) {
        in.start = clock_.now();
    }
    const auto wall = clock_.to_wall(clock_.now());
    auto found = in.users.find(event.uid);
    if (found == in.users.end()) {
        if (in.users.size() >= most_users && event.uid != 0) {
            in.rest.miss(event.checks, wall);
            counters_[kind].summed_up += 1;
            return;
        }
        found = in.users.emplace(event.uid, User{}).first;
    }
    User& user = found->second;
    const std::pair key(event.generation, event.line);
    const auto line = user.lines.find(key);
    Share& share = line != user.lines.end()         ? line->second
                   : user.lines.size() < most_lines ? user.lines[key]
                                                    : user.rest;
    if (is_free(limits_of(event.kind), in, event.uid, user, share) && write_(event.kind, text())) {
        ++share.written;
        ++user.written;
        counters_[kind].written += 1;
        return;
    }
    if (&share != &user.rest && share.events == 0) {
        share.rule = event.rule;
    }
    share.miss(event.checks, wall);
    counters_[kind].summed_up += 1;
}

bool EventLog::write_summary(Kind kind, Scope scope, std::uint32_t uid, const Share& share) {
    constexpr const char* scopes[] = {"line", "user", "all"};
    nlohmann::json summary = {{"time", store::iso_time(clock_.to_wall(clock_.now()))},
                              {"since", store::iso_time(share.since)},
                              {"kind", kind_names[static_cast<std::size_t>(kind)]},
                              {"scope", scopes[static_cast<std::size_t>(scope)]},
                              {"events", share.events},
                              {"looks", share.checks}};
    if (scope != Scope::all) {
        summary["uid"] = uid;
        if (const auto* const name = names_.users().name(uid)) {
            summary["user"] = *name;
        }
    }
    if (scope == Scope::line && !share.rule.empty()) {
        summary["rule"] = share.rule;
    }
    return write_(kind, json_text(nlohmann::json({{"summary", summary}}), true));
}

void EventLog::settle(Kind kind) {
    Window ended = std::exchange(windows_[static_cast<std::size_t>(kind)], Window{});
    struct Owed {
        Scope scope;
        std::uint32_t uid;
        const Share* share;
    };
    std::vector<Owed> owed;
    for (const auto& [uid, user] : ended.users) {
        for (const auto& [line, share] : user.lines) {
            owed.push_back({Scope::line, uid, &share});
        }
        owed.push_back({Scope::user, uid, &user.rest});
    }
    std::erase_if(owed, [](const Owed& one) { return one.share->events == 0; });
    std::ranges::sort(owed, [](const Owed& a, const Owed& b) {
        return std::tuple(b.share->events, a.uid, a.scope) <
               std::tuple(a.share->events, b.uid, b.scope);
    });
    for (std::size_t i = 0; i < owed.size(); ++i) {
        const auto& [scope, uid, share] = owed[i];
        if (i >= most_summaries || !write_summary(kind, scope, uid, *share)) {
            ended.rest.take(*share);
        }
    }
    if (ended.rest.events > 0 && !write_summary(kind, Scope::all, 0, ended.rest)) {
        Window& next = windows_[static_cast<std::size_t>(kind)]; // retry when there is room again
        next.rest = ended.rest;
        next.start = clock_.now();
    }
}

void EventLog::tick() {
    for (std::size_t kind = 0; kind < kinds; ++kind) {
        if (windows_[kind].start != never && clock_.now() - windows_[kind].start >= window) {
            settle(static_cast<Kind>(kind));
        }
    }
}

void EventLog::flush() {
    for (std::size_t kind = 0; kind < kinds; ++kind) {
        settle(static_cast<Kind>(kind));
    }
}

} // namespace egress
