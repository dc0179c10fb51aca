#include "daemon/egress/event_filter.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "daemon/base/log.h"
#include "daemon/base/number.h"
#include "daemon/egress/event.h"

namespace egress {

namespace {

template <typename T, typename U>
bool one_of(const std::vector<T>& wanted, const U& value) {
    return wanted.empty() || std::ranges::find(wanted, value) != wanted.end();
}

} // namespace

Result<EventFilter> EventFilter::of(const Query& query) {
    if (query.size() > most_values) {
        return fail(fmt::format("a filter takes at most {} values", most_values));
    }
    EventFilter filter;
    for (const auto& [name, value] : query) {
        if (auto taken = filter.take(name, value); !taken) {
            return std::unexpected(taken.error());
        }
    }
    return filter;
}

Result<> EventFilter::take(const std::string& name, const std::string& value) {
    const auto wrong = [&](std::string_view what) {
        return fail(fmt::format("\"{}={}\": {}", escape(name, 16), escape(value, 64), what));
    };
    if (name == "action") {
        if (value != "BLOCKED" && value != "ALLOWED" && value != "MONITOR") {
            return wrong("write BLOCKED, ALLOWED or MONITOR");
        }
        actions_.push_back(value);
    } else if (name == "exe") {
        programs_.push_back(value);
    } else if (name == "uid") {
        const auto uid = parse_decimal<std::uint32_t>(value);
        if (!uid) {
            return wrong("write a number");
        }
        users_.push_back(*uid);
    } else if (name == "addr") {
        const auto prefix = Prefix::parse(value);
        if (!prefix) {
            return wrong("write an address or a network");
        }
        destinations_.push_back(*prefix);
    } else if (name == "port") {
        const auto port = parse_decimal<std::uint16_t>(value);
        if (!port || *port == 0) {
            return wrong("write a number from 1 to 65535");
        }
        ports_.push_back(*port);
    } else if (name == "rule") {
        rules_.push_back(value);
    } else {
        return wrong("events have no such column");
    }
    return {};
}

/// Compares "FILE:LINE:COLUMN" with a line number or with the parts that the watcher gave.
bool EventFilter::passes_rule(const policy::EgressRule* rule) const {
    if (rules_.empty()) {
        return true;
    }
    const auto place = rule == nullptr ? std::string() : rule->place.text();
    return std::ranges::any_of(rules_, [&](const std::string& wanted) {
        const auto line = place.substr(0, place.rfind(':')); // without the column
        const bool line_only = wanted.find(':') == std::string::npos;
        return wanted == "none" ? place.empty()
               : place.empty()  ? false
               : line_only      ? line.ends_with(":" + wanted)
                                : line == wanted || place == wanted;
    });
}

bool EventFilter::passes(const egress_event& event, const policy::EgressRule* rule) const {
    const bool goes_somewhere = event.hook != EGRESS_HOOK_CREATE && event.hook != EGRESS_HOOK_UNIX;
    const auto size = event.known == 0 ? 0 : strnlen(event.path, sizeof event.path);
    if (!one_of(actions_, action_text(event)) || !one_of(users_, event.flow.uid) ||
        !one_of(programs_, std::string_view(event.path, size)) || !passes_rule(rule)) {
        return false;
    }
    if (!ports_.empty() && !(goes_somewhere && one_of(ports_, event.flow.port))) {
        return false;
    }
    if (destinations_.empty()) {
        return true;
    }
    const auto address = Address::from_bytes(event.flow.address);
    return goes_somewhere && address && std::ranges::any_of(destinations_, [&](const Prefix& one) {
               return one.contains(*address);
           });
}

} // namespace egress
