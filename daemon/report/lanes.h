// The lanes of the daemon (lane.h): starts them, gives them work, and gives up those that hang.
//
// A turn is one request to one lane, for one uid. Lanes are alike: any idle one serves any uid, and
// one that hangs belongs, from then on, to the uid whose turn it was. All uids together that are
// neither root nor named by the rules may keep a bounded number of lanes busy, and a bounded number
// lost; the others have lanes beyond that. So strangers may run out of lanes, and root does not.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include <systemd/sd-event.h>

#include "daemon/base/loop.h"
#include "daemon/base/result.h"
#include "daemon/report/lane.h"
#include "daemon/report/lane_spawner.h"

namespace egress {

class Lanes {
  public:
    struct Limits {
        std::size_t strangers_busy = 16; ///< lanes at work for uids without a reservation, in all
        std::size_t strangers_lost = 64; ///< of them, lanes that were given up and still exist
        std::size_t lost_per_uid = 4;
        std::size_t reserved_busy = 2; ///< lanes at work for one uid that has lanes reserved
        std::size_t reserved_lost = 16;
        unsigned patience = 5; ///< ticks of 200 ms that a lane may sleep in the kernel
    };
    struct Turn {
        std::uint32_t uid = 0;
        bool reserved = false;
        std::vector<void*> connections; ///< the caller's own
    };
    enum class End : std::uint8_t {
        judged, ///< every connection was read
        lost,   ///< the lane was given up: connection number board.done holds it, and those after
                ///< it were not read
    };
    struct Counters {
        std::size_t running = 0; ///< that have sent their first message
        std::size_t busy = 0;
        std::size_t lost = 0;       ///< given up, and not gone yet
        std::uint64_t given_up = 0; ///< ever
    };
    /// The board is valid during the call.
    using Judged = std::function<void(const Turn&, const lane::Board&, End)>;

    /// Calls `judged` once for each turn, `freed` whenever a lane is available again.
    Lanes(sd_event* event, lane::Spawner spawner, Judged judged, std::function<void()> freed);
    ~Lanes();
    Lanes(const Lanes&) = delete;
    Lanes& operator=(const Lanes&) = delete;

    /// Begins a turn with these descriptors; false: no lane for this uid now.
    bool begin(Turn turn, std::span<const int> fds, std::span<const std::uint8_t> most);
    /// A lane works for that uid, and has not been slow so far.
    bool moves(std::uint32_t uid) const;
    /// Closes a connection in whose queue descriptors may wait, where that may take its time.
    void discard(Fd connection);
    /// Without the loop: waits for a message of a lane, at most that long, and handles it.
    void wait(int milliseconds);

    Counters counters() const;
    /// Lanes that were given up because of that uid and still exist.
    std::size_t lost(std::uint32_t uid) const;
    Limits& limits() { return limits_; }

  private:
    struct Lane;
    using Place = std::list<std::unique_ptr<Lane>>::iterator;

    bool may_begin(const Turn& turn) const;
    Lane* make();
    void hear(Lane& lane);
    void finish(Lane& lane, End end);
    void give_up(Lane& lane);
    void bury(Lane& lane);
    void remove(Lane& lane);
    void tick();
    bool is_late(const Lane& lane) const;
    void watch_time();

    sd_event* event_;
    lane::Spawner spawner_;
    Judged judged_;
    std::function<void()> freed_;
    Limits limits_;
    std::list<std::unique_ptr<Lane>> lanes_; ///< idle ones by when they were used last
    Lane* bin_ = nullptr;                    ///< discards
    std::vector<Fd> parked_;                 ///< to be discarded when there is a lane for it
    Source tick_;
    bool ticking_ = false;
    Counters counters_;
};

} // namespace egress
