// A row of the database for people and for scripts.
#pragma once

#include <cstdint>
#include <string>

#include "ctl/out.h"
#include "daemon/store/records.h"

namespace egress::ctl {

/// The row as the daemon would have it now: whether or not one ran to see it, a block that is past
/// its end blocks nobody and counts from zero, and a count past its time counts nothing.
store::Row as_of(store::Row row, std::int64_t now);
/// A count whose time is over; the next daemon forgets it.
bool is_forgotten(const store::Row& row, std::int64_t now);

// What follows takes rows that went through as_of().

struct RowStyle {
    bool header = true;
    bool remaining = false; ///< instead of the last access
    bool wide = false;      ///< room for IPv6 addresses
    bool detailed = false;  ///< all columns
};

std::string row_header(const RowStyle& style);
/// blocklistctl's columns: address/mask:port, id, count/nfail, time.
std::string row_line(const store::Row& row, const RowStyle& style, std::int64_t now);

} // namespace egress::ctl
