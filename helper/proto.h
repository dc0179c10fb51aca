// The two contracts as text: argument vectors of one event, lines of `serve`. Pure, no system call.
//
// Everything that reaches the kernel goes through here first, so parsing is strict: one spelling
// per value, no leading zeros, no host bits, nothing but printable ASCII. man 7 egress-helper is
// the grammar in full. Errors say which field is wrong, what it holds, and what was expected.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "daemon/base/address.h"
#include "daemon/base/result.h"

namespace egress::helper {

inline constexpr std::size_t max_line = 256; ///< bytes of one line, its '\n' included
inline constexpr std::string_view hello = "HELLO egress-helper 1";

/// What the kernel takes: milliseconds that as nanoseconds fit 64 bits, 584 years.
inline constexpr std::uint64_t max_seconds = 18'446'744'073;
inline constexpr std::uint64_t for_ever = 0; ///< in place of seconds
/// More is given to the kernel as this: where it keeps time in ticks of 1/300 s, its arithmetic
/// overflows at 65 years.
inline constexpr std::uint64_t longest_timeout = 2'000'000'000;

enum class Action : std::uint8_t { drop, reject };

/// What a block matches, and the key of its element.
struct Target {
    Prefix source;
    std::uint8_t protocol = 0; ///< IP protocol number, 0: any
    std::uint16_t port = 0;    ///< destination port, host byte order, 0: any

    friend auto operator<=>(const Target&, const Target&) = default;
};

struct Block {
    Target target;
    Action action = Action::drop;
    std::uint64_t seconds = for_ever; ///< time left, 1..max_seconds, or for_ever
};

/// A block as the kernel holds it.
struct Element {
    Block block;
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
};

enum class Verb : std::uint8_t { add, rem, flush, list, names, sync, elem, end, kill, ping };

struct Request {
    std::uint64_t id = 0; ///< never 0 on the wire: replies to lines without a readable id carry 0
    Verb verb = Verb::ping;
    std::string name; ///< empty where the verb has none
    Block block;      ///< what of it the verb carries; the rest is as constructed
};

/// What a process is asked that serves one event.
struct Event {
    Verb verb = Verb::add; ///< add, rem or flush
    std::string name;
    Block block;
};

/// [A-Za-z0-9][A-Za-z0-9._-]{0,62}
bool is_name(std::string_view text);

/// The id that opens a line, 1..2^64-1 in decimal without leading zeros, if there is one.
std::optional<std::uint64_t> parse_id(std::string_view line);

/// A request line without its '\n'.
Result<Request> parse_request(std::string_view line);

/// The arguments after the program's name, and EGRESS_SECONDS and EGRESS_ACTION (null: not set,
/// which means for ever and drop). An error with code EINVAL is one of usage (verb, count).
Result<Event> parse_event(std::span<const char* const> arguments, const char* seconds,
                          const char* action);

std::string_view verb_name(Verb verb);
std::string_view action_name(Action action);

/// The line that parses to this request, without '\n'.
std::string print(const Request& request);
/// PROTO ADDR MASKLEN PORT
void append(std::string& out, const Target& target);
/// PROTO ADDR MASKLEN PORT SECONDS ACTION PACKETS
void append(std::string& out, const Element& element);

/// "ID err TEXT\n", the text made printable and short enough for one line.
std::string error_line(std::uint64_t id, std::string_view text);

} // namespace egress::helper
