#include "daemon/clock.h"

#include <ctime>

namespace egress {

namespace {

std::int64_t seconds_of(clockid_t id) {
    timespec now{};
    clock_gettime(id, &now);
    return now.tv_sec;
}

} // namespace

Moment SystemClock::now() const {
    return seconds_of(CLOCK_BOOTTIME);
}

std::int64_t SystemClock::wall() const {
    return seconds_of(CLOCK_REALTIME);
}

} // namespace egress
