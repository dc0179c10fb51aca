// The time of the daemon.
//
// Inside, time is Moment: whole seconds of CLOCK_BOOTTIME, which never steps and counts suspend.
// Wall-clock time exists only at the edges (rules file, database, log, JSON).
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace egress {

/// Seconds since boot. Signed so that differences are plain.
using Moment = std::int64_t;
/// A span in seconds.
using Seconds = std::int64_t;

inline constexpr Moment never = std::numeric_limits<Moment>::max(); ///< later than any moment
inline constexpr Seconds forever = std::numeric_limits<Seconds>::max();

/// start + span, saturating at `never`.
constexpr Moment after(Moment start, Seconds span) {
    return span >= never - start ? never : start + span;
}

/// Seconds in one of the units that people write (s m h d w); 0: no such unit.
constexpr Seconds unit_seconds(char unit) {
    switch (unit) {
    case 's':
        return 1;
    case 'm':
        return 60;
    case 'h':
        return 60 * 60;
    case 'd':
        return 24 * 60 * 60;
    case 'w':
        return 7 * 24 * 60 * 60;
    default:
        return 0;
    }
}

/// The owner passes it in, so that tests can set the time.
class Clock {
  public:
    virtual ~Clock() = default;
    virtual Moment now() const = 0; ///< seconds since boot
    /// Wall-clock time at Moment 0, in seconds since the epoch. It changes only when the wall clock
    /// is set, so that a moment always converts to the same second.
    virtual std::int64_t at_boot() const = 0;

    /// Seconds since the epoch; within a second of the wall clock.
    std::int64_t wall() const { return now() + at_boot(); }
    std::int64_t to_wall(Moment moment) const {
        return moment == never ? never : moment + at_boot();
    }
    Moment from_wall(std::int64_t seconds) const {
        return seconds == never ? never : seconds - at_boot();
    }
};

class SystemClock final : public Clock {
  public:
    Moment now() const override;
    std::int64_t at_boot() const override;

  private:
    mutable std::atomic<std::int64_t> at_boot_{0}; ///< the last result; 0: none yet
};

} // namespace egress
