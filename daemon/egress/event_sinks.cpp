#include "daemon/egress/event_sinks.h"

#include "daemon/base/json_text.h"

namespace egress {

const std::string& EventView::json() const {
    if (text.empty()) {
        text = json_text(event_json(event, rule, domain, names, loader, clock), true);
    }
    return text;
}

void EventSinks::emit(const EventView& event) const {
    for (EventSink* const sink : sinks_) {
        sink->take(event);
    }
}

void CountsSink::take(const EventView& event) {
    // Of AF_UNIX nothing is counted: the counts have addresses, and lines are learnt from them.
    if (!event.selftest && event.event.hook != EGRESS_HOOK_UNIX) {
        counts_.add(event_row(event.event, event.rule, event.clock));
    }
}

} // namespace egress
