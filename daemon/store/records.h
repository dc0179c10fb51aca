// Rows of the database: the state of one (name, counted address, port, protocol).
//
// Keys are versioned, typed and big-endian, so that LMDB's byte order is meaningful and a later
// version can distinguish its rows from old ones. Times on disk are wall-clock seconds.
//
//   key    'r' 1  name-length name  family(4|6) address(4|16) prefix-length  protocol port(be16)
//   value  1 state flags grow-length  strikes(be16) count nfail last since until (be32 each)
//          history-length { time(be32) failures(be16) }  id-length id  reason-length(be16) reason
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/address.h"

namespace egress::store {

inline constexpr std::size_t max_name = 63;    ///< bytes of a rule (set) name
inline constexpr std::size_t max_reason = 256; ///< bytes of free text in a row
inline constexpr std::uint32_t until_forever = 0xffffffff;

enum class State : std::uint8_t {
    counting = 0,  ///< failures are counted, no block
    blocked = 1,   ///< a block is wanted (until `until`)
    releasing = 2, ///< the block is lifted; the firewall has not confirmed it
};

/// Bits of Row::flags.
enum Flag : std::uint8_t {
    by_hand = 1,  ///< made with egressctl block: AUTH_OK does not lift it
    in_force = 2, ///< the firewall confirmed the block
    reject = 4,   ///< reject instead of drop
    monitor = 8,  ///< judged under -m: wanted, but never handed to the helper
};

/// Failures that still count under a rule with a window, oldest first.
struct Past {
    std::uint32_t time = 0; ///< wall-clock seconds
    std::uint16_t failures = 0;
    friend bool operator==(const Past&, const Past&) = default;
};

inline constexpr std::size_t max_history = 16;

struct Row {
    std::string name;
    Prefix address;
    std::uint8_t protocol = 0; ///< IPPROTO_*; 0: every protocol
    std::uint16_t port = 0;    ///< host byte order; 0: every port
    State state = State::counting;
    std::uint8_t flags = 0;
    std::uint8_t grow_length = 0; ///< not 0: counts for the enclosing prefix of this length
    std::uint32_t count = 0;
    std::uint32_t nfail = 0;   ///< of the rule that last decided; 0: "*"
    std::uint16_t strikes = 0; ///< blocks so far, for escalation
    std::uint32_t last = 0;    ///< wall-clock seconds of the last failure
    std::uint32_t since = 0;   ///< when the block began; 0: not blocked
    std::uint32_t until = 0;   ///< blocked: when it ends; counting: when the row is deleted;
                               ///< until_forever: never
    std::vector<Past> history; ///< only under rules with a window; at most max_history
    std::string id;            ///< the helper's handle; empty: none
    std::string reason;        ///< for people; already escaped
    friend bool operator==(const Row&, const Row&) = default;
};

/// Appends to `out`, so that a batch is one buffer; cuts names at max_name.
void encode_key(const Row& row, std::vector<std::uint8_t>& out);
void encode_value(const Row& row, std::vector<std::uint8_t>& out);
/// nullopt: the bytes are not a row of this version (the caller reports the key). The value must
/// come without its checksum (seal.h).
std::optional<Row> decode(std::span<const std::uint8_t> key, std::span<const std::uint8_t> value);
/// "egress 192.0.2.1 protocol 6 port 22", escaped; empty: the bytes are no key.
std::string key_text(std::span<const std::uint8_t> key);

} // namespace egress::store
