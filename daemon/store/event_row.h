// Rows of the traffic that the kernel side observed: one row with a count per kind.
//
// They have a table of their own ("events"), which older versions leave alone. Keys are versioned,
// typed and big-endian like those of records.h. Times on disk are wall-clock seconds.
//
//   key    'e' 1  uid(be32) gid(be32)  action flags type protocol port(be16)  family(0|4|6)
//          address(0|4|16)  program-length program  rule-length rule
//   value  1 count(be64) first last (be32 each)
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/base/address.h"

namespace egress::store {

inline constexpr std::size_t max_program = 255; ///< bytes
/// Bytes of "file:line:column"; longer ones keep their end.
inline constexpr std::size_t max_rule = 120;

struct EventRow {
    enum class Action : std::uint8_t { allowed = 0, blocked = 1, monitored = 2 };
    enum Flag : std::uint8_t {
        container = 1,
        wide = 2,     ///< sum of the destinations beyond the user's share
        nameless = 4, ///< the program is unknown: `program` is the command name
        overflow = 8, ///< sum of the events without room; only the action is valid
        audited = 16, ///< monitored by a line that allows: "allow audit"
    };

    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    Action action = Action::allowed;
    std::uint8_t flags = 0;
    std::uint8_t type = 0; ///< SOCK_*
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;         ///< host byte order; 0: no address
    std::optional<Address> address; ///< nullopt: a new socket that no later hook checks
    std::string program;            ///< path from the kernel: any bytes
    std::string rule;               ///< place of the line that decided; empty: none

    std::uint64_t count = 0;
    std::uint32_t first = 0; ///< wall-clock seconds
    std::uint32_t last = 0;
    friend bool operator==(const EventRow&, const EventRow&) = default;
};

/// Appends to `out`.
void encode_key(const EventRow& row, std::vector<std::uint8_t>& out);
void encode_value(const EventRow& row, std::vector<std::uint8_t>& out);
/// nullopt: the bytes are not a row of this version. The value comes without its checksum (seal.h).
std::optional<EventRow> decode_event(std::span<const std::uint8_t> key,
                                     std::span<const std::uint8_t> value);

/// The row that counts the event if there are too many destinations: without address.
EventRow widened(EventRow row);
/// The row that counts the event if all shares are full.
EventRow overflowed(const EventRow& row);
/// Adds the counts of another row of the same kind.
void merge(EventRow& into, const EventRow& more);

/// The flags by their names in JSON.
inline constexpr std::array<std::pair<std::string_view, EventRow::Flag>, 5> event_flags = {
    {{"container", EventRow::container},
     {"wide", EventRow::wide},
     {"nameless", EventRow::nameless},
     {"overflow", EventRow::overflow},
     {"audited", EventRow::audited}}};

/// "ALLOWED", "BLOCKED" or "MONITOR".
std::string_view name_of(EventRow::Action action);

} // namespace egress::store
