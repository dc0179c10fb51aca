#include "daemon/store/epoch.h"

#include <algorithm>
#include <sstream>

#include <fmt/format.h>

namespace egress::store {

Epoch Epoch::at_start(std::string_view stored, std::string boot, std::int64_t at_boot) {
    const auto before = parse(stored);
    const std::int64_t base = !before                ? at_boot
                              : before->boot == boot ? before->base
                                                     : at_boot - before->offset;
    return {std::move(boot), base, at_boot - base};
}

std::optional<Epoch> Epoch::parse(std::string_view text) {
    std::istringstream words{std::string(text)};
    Epoch out;
    words >> out.boot >> out.base >> out.offset;
    return words.fail() ? std::nullopt : std::optional(std::move(out));
}

std::string Epoch::text() const {
    return fmt::format("{} {} {}", boot, base, offset);
}

std::int64_t Epoch::to_wall(std::string_view boot_now, std::int64_t at_boot) const {
    return boot == boot_now ? at_boot - base : offset;
}

void shift_times(Row& row, std::int64_t seconds) {
    const auto shift = [seconds](std::uint32_t& time) {
        if (time != 0 && time != until_forever) {
            time = static_cast<std::uint32_t>(
                std::clamp<std::int64_t>(std::int64_t{time} + seconds, 1, until_forever - 1));
        }
    };
    shift(row.last);
    shift(row.since);
    shift(row.until);
    for (auto& [time, failures] : row.history) {
        shift(time);
    }
}

} // namespace egress::store
