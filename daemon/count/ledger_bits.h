// Conversions between rows and decisions, for the ledger's files.
#pragma once

#include "daemon/count/decide.h"
#include "daemon/count/table.h"

namespace egress {

inline Count count_of(const TableRow& row) {
    return Count{
        row.state,        (row.flags & store::by_hand) != 0,      row.count,        row.strikes,
        unpack(row.last), row.since == 0 ? 0 : unpack(row.since), unpack(row.until)};
}

/// The flags with one of them set or cleared.
inline std::uint8_t with(std::uint8_t flags, std::uint8_t flag, bool set) {
    return static_cast<std::uint8_t>(set ? flags | flag : flags & ~flag);
}

} // namespace egress
