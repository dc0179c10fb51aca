// The clients that watch events or blocks live (GET /v1/events).
//
// Each watcher gets the events that pass its filter, in a queue of bounded size; other events take
// no room there. A watcher that is too slow loses events and gets their number; it delays neither
// the loop nor other watchers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/block_watch.h"
#include "daemon/control/http.h"
#include "daemon/egress/event_filter.h"
#include "daemon/egress/event_sinks.h"

namespace egress {

class Watchers final : public EventSink {
  public:
    static constexpr Shares::Limits limits = {32, 8, 8};
    static constexpr std::size_t most_queued = 256 << 10; ///< bytes per watcher

    /// Without room it does not call `answer`.
    Shares::Room add(const Answer& answer, std::uint32_t uid, EventFilter filter);
    /// The same for blocks.
    Shares::Room add(const Answer& answer, std::uint32_t uid, BlockFilter filter, Ledger& ledger);
    /// Queues the blocks that changed; called at the end of every turn of the loop.
    void pump(Ledger& ledger);
    /// Queues an event for each watcher whose filter it passes.
    void take(const EventView& event) override;
    std::size_t size(); ///< those that are still there

  private:
    struct Watcher {
        std::uint32_t uid = 0;
        std::optional<EventFilter> events; ///< nullopt: it watches blocks
        BlockFilter blocks;
        std::string queue;
        std::uint64_t dropped = 0; ///< since the last queued event
        Wake wake;
        void put(std::string_view line);
        void take(std::string& out);
        void emit_dropped();
    };

    Shares::Room add(const Answer& answer, std::shared_ptr<Watcher> watcher);

    /// The connection owns its watcher.
    std::vector<std::weak_ptr<Watcher>> watchers_;
};

} // namespace egress
