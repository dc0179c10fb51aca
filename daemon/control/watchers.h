// Who watches the events as they come (GET /v1/events).
//
// Each gets what passes its filter, into a queue of bounded size: nothing that it does not want
// takes room there. One that is slower than the events loses them, and is told how many; it holds
// up neither the loop nor the others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/http.h"
#include "daemon/egress/event_filter.h"
#include "daemon/egress/event_sinks.h"

namespace egress {

class Watchers final : public EventSink {
  public:
    static constexpr Shares::Limits limits = {32, 8, 8};
    static constexpr std::size_t most_queued = 256 << 10; ///< bytes for each

    /// Where there is no room nothing was answered.
    Shares::Room add(const Answer& answer, std::uint32_t uid, EventFilter filter);
    /// Queues an event for each watcher whose filter it passes.
    void take(const EventView& event) override;
    std::size_t size(); ///< those that are still there

  private:
    struct Watcher {
        std::uint32_t uid = 0;
        EventFilter filter;
        std::string queue;
        std::uint64_t dropped = 0; ///< since the last that was queued
        Wake wake;
        void put(std::string_view line);
        void take(std::string& out);
        void tell_dropped();
    };

    /// The connection owns its watcher.
    std::vector<std::weak_ptr<Watcher>> watchers_;
};

} // namespace egress
