// Owners for sd-event's handles.
#pragma once

#include <memory>

#include <systemd/sd-event.h>

namespace egress {

struct UnrefSource {
    void operator()(sd_event_source* source) const { sd_event_source_disable_unref(source); }
};
using Source = std::unique_ptr<sd_event_source, UnrefSource>;

struct UnrefEvent {
    void operator()(sd_event* event) const { sd_event_unref(event); }
};
using Event = std::unique_ptr<sd_event, UnrefEvent>;

} // namespace egress
