// A row of the database for people and for scripts.
#pragma once

#include <cstdint>
#include <string>

#include "ctl/out.h"
#include "daemon/store/records.h"

namespace egress::ctl {

/// The row as a daemon would have it now, even if none has run since: a block past its end is no
/// block and counts from zero, and an expired count is zero.
store::Row as_of(store::Row row, std::int64_t now);
/// Whether the count has expired; the next daemon removes it.
bool is_forgotten(const store::Row& row, std::int64_t now);

// The functions below expect rows from as_of().

struct RowStyle {
    bool header = true;
    bool remaining = false; ///< remaining time instead of the last access
    bool wide = false;      ///< columns wide enough for IPv6 addresses
    bool detailed = false;  ///< all columns
};

std::string row_header(const RowStyle& style);
/// blocklistctl's columns: address/mask:port, id, count/nfail, time.
std::string row_line(const store::Row& row, const RowStyle& style, std::int64_t now);

} // namespace egress::ctl
