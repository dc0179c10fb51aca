#include "daemon/base/clock.h"

#include <cstdlib>
#include <ctime>

namespace egress {

namespace {

constexpr std::int64_t second = 1'000'000'000; ///< in nanoseconds

std::int64_t nanoseconds(clockid_t id) {
    timespec now{};
    clock_gettime(id, &now);
    return now.tv_sec * second + now.tv_nsec;
}

} // namespace

Moment SystemClock::now() const {
    return nanoseconds(CLOCK_BOOTTIME) / second;
}

std::int64_t SystemClock::at_boot() const {
    // The seconds of the two clocks start at different times, and the clocks are read one after the
    // other. So the previous result stays until it is clearly wrong.
    const std::int64_t exact = nanoseconds(CLOCK_REALTIME) - nanoseconds(CLOCK_BOOTTIME);
    const std::int64_t before = at_boot_.load(std::memory_order_relaxed);
    if (before != 0 && std::abs(exact - before * second) < second * 3 / 4) {
        return before;
    }
    const std::int64_t rounded = (exact + second / 2) / second;
    at_boot_.store(rounded, std::memory_order_relaxed);
    return rounded;
}

} // namespace egress
