// What is remembered of the traffic that the kernel half saw: one row per kind of it, with a count.
//
// They lie in a table of their own ("events"), which versions that do not know it leave alone. Keys
// are versioned, typed and big-endian as those of records.h. Times on disk are wall-clock seconds.
//
//   key    'e' 1  uid(be32) gid(be32)  action flags type protocol port(be16)  family(0|4|6)
//          address(0|4|16)  program-length program  rule-length rule
//   value  1 count(be64) first last (be32 each)
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/address.h"

namespace egress::store {

inline constexpr std::size_t max_program = 255; ///< bytes
inline constexpr std::size_t max_rule = 120;    ///< bytes of "file:line:column"; the end is kept

struct EventRow {
    enum class Action : std::uint8_t { allowed = 0, blocked = 1, monitored = 2 };
    enum Flag : std::uint8_t {
        container = 1,
        wide = 2,     ///< stands for destinations beyond those that are remembered one by one
        nameless = 4, ///< the program is not known: `program` is its command name
        overflow = 8, ///< stands for what found no room at all; only the action is meant
    };

    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    Action action = Action::allowed;
    std::uint8_t flags = 0;
    std::uint8_t type = 0; ///< SOCK_*
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;         ///< host byte order; 0 where there is no address
    std::optional<Address> address; ///< nothing: a socket was made that is not judged later
    std::string program;            ///< path; as the kernel had it: any bytes
    std::string rule;               ///< where the line stands that decided; empty: none did

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

/// The row that takes it in where destinations are too many: without address.
EventRow widened(EventRow row);
/// The row that takes it in where everything is full.
EventRow overflowed(const EventRow& row);
/// Adds the counts of another row of the same kind.
void merge(EventRow& into, const EventRow& more);

/// "ALLOWED", "BLOCKED" or "MONITOR".
std::string_view name_of(EventRow::Action action);

} // namespace egress::store
