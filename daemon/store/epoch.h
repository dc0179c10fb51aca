// What the times of the rows count from.
//
// The rows hold seconds since an epoch that stays as long as the machine runs, whatever sets the
// wall clock meanwhile: a moment since boot plus `base`. "clock" of the table of meta has it, so
// that a reader of the database beside the daemon, or after it, finds the same moments.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/store/records.h"

namespace egress::store {

struct Epoch {
    static constexpr const char* key = "clock"; ///< of the table of meta

    std::string boot;        ///< id of the boot for which `base` holds
    std::int64_t base = 0;   ///< stored seconds = seconds since that boot + base
    std::int64_t offset = 0; ///< wall clock - stored seconds, as the daemon saw it last

    /// For a daemon that starts: keeps the stored seconds of `stored` (the value of meta) valid.
    static Epoch at_start(std::string_view stored, std::string boot, std::int64_t at_boot);
    /// nullopt: it is no text of an epoch.
    static std::optional<Epoch> parse(std::string_view text);
    std::string text() const;

    /// Seconds from stored time to wall-clock time now.
    std::int64_t to_wall(std::string_view boot_now, std::int64_t at_boot) const;

    friend bool operator==(const Epoch&, const Epoch&) = default;
};

/// Moves all times of the row; what has no time stays so.
void shift_times(Row& row, std::int64_t seconds);

} // namespace egress::store
