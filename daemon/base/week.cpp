#include "daemon/base/week.h"

#include <ctime>

namespace egress {

std::uint64_t week_at_boot(const Clock& clock) {
    constexpr std::int64_t day = 24 * 60 * 60;
    constexpr std::int64_t week = 7 * day;
    const auto now = static_cast<std::time_t>(clock.wall());
    std::tm local{};
    localtime_r(&now, &local);
    const std::int64_t second =
        (local.tm_wday + 6) % 7 * day + local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec;
    return static_cast<std::uint64_t>(((second - clock.now()) % week + week) % week);
}

} // namespace egress
