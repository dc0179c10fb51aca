#include "daemon/event_counts.h"

#include <cstring>
#include <utility>

#include <netinet/in.h>

namespace egress {

store::EventRow event_row(const egress_event& event, const policy::EgressRule* rule,
                          const Clock& clock) {
    using Row = store::EventRow;
    constexpr std::uint64_t second = 1'000'000'000;
    Row row;
    row.uid = event.flow.uid;
    row.gid = event.flow.gid;
    row.action = event.action == EGRESS_EVENT_BLOCKED   ? Row::Action::blocked
                 : event.action == EGRESS_EVENT_ALLOWED ? Row::Action::allowed
                                                        : Row::Action::monitored;
    row.flags = event.flow.in_container != 0 ? Row::container : 0;
    row.type = event.flow.type;
    row.protocol = event.flow.protocol;
    if (event.hook != EGRESS_HOOK_CREATE) {
        row.address = Address::from_bytes(event.flow.address);
        row.port = event.flow.port;
    }
    row.program.assign(event.path, strnlen(event.path, sizeof event.path));
    if (event.known == 0 || row.program.empty()) {
        row.flags |= Row::nameless;
        row.program.assign(event.comm, strnlen(event.comm, sizeof event.comm));
    }
    row.rule = rule != nullptr ? rule->place.text() : "";
    row.count = event.count;
    row.first = row.last =
        static_cast<std::uint32_t>(clock.to_wall(static_cast<Moment>(event.time / second)));
    return row;
}

void EventCounts::add(const egress_event& event, const policy::EgressRule* rule,
                      const Clock& clock) {
    add(event_row(event, rule, clock));
}

void EventCounts::add(const store::EventRow& row) {
    if (take(row, most_of_user)) {
        return;
    }
    if (take(store::widened(row), most_of_user + most_wide)) {
        widened_ += row.count;
        return;
    }
    overflowed_ += row.count;
    take(store::overflowed(row), most); // a handful of rows: there is always room
}

bool EventCounts::take(const store::EventRow& row, std::size_t most_now) {
    key_.clear();
    store::encode_key(row, key_);
    if (const auto found = rows_.find(key_); found != rows_.end()) {
        store::merge(found->second, row);
        return true;
    }
    const bool last_resort = (row.flags & store::EventRow::overflow) != 0;
    auto& of_user = of_user_[row.uid];
    if (!last_resort && (rows_.size() >= most || of_user >= most_now)) {
        return false;
    }
    ++of_user;
    rows_.emplace(key_, row);
    return true;
}

void EventCounts::collect(store::Batch& batch) {
    for (auto& [key, row] : std::exchange(rows_, {})) {
        batch.count(std::move(row));
    }
    of_user_.clear();
}

} // namespace egress
