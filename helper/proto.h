// The two contracts as text: argument vectors of one event, lines of `serve`. Pure, no system call.
//
// All input to the kernel passes here first, so parsing is strict: one spelling per value, no
// leading zeros, no host bits, only printable ASCII. man 7 egress-helper has the full grammar.
// Errors name the wrong field, its content, and the expected form.
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
inline constexpr std::string_view hello = "HELLO egress-helper ";
inline constexpr unsigned newest_version = 2; ///< has exempt, pass, hold and the line "0 changed"

/// The kernel's limit: its milliseconds must fit 64 bits as nanoseconds, 584 years.
inline constexpr std::uint64_t max_seconds = 18'446'744'073;
inline constexpr std::uint64_t for_ever = 0; ///< in place of seconds
/// The kernel gets at most this: with ticks of 1/300 s its arithmetic overflows at 65 years.
inline constexpr std::uint64_t longest_timeout = 2'000'000'000;

/// What a set's rule does with a packet: the first two are a block's, the others an exemption's.
enum class Action : std::uint8_t { drop, reject, pass, hold };

/// The packets that a block matches; also the key of its element.
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

/// A block in the kernel, with its counter.
struct Element {
    Block block;
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
};

enum class Verb : std::uint8_t {
    add,
    rem,
    flush,
    list,
    names,
    sync,
    elem,
    end,
    kill,
    ping,
    exempt,
    pass,
    hold
};

struct Request {
    std::uint64_t id = 0; ///< never 0 on the wire: replies to lines without a readable id carry 0
    Verb verb = Verb::ping;
    std::string name; ///< empty: the verb has none
    Block block;      ///< the fields that the verb has; the others keep their defaults
};

/// The request to a process that serves one event.
struct Event {
    Verb verb = Verb::add; ///< add, rem or flush
    std::string name;
    Block block;
};

/// [A-Za-z0-9][A-Za-z0-9._-]{0,62}
bool is_name(std::string_view text);

/// The id at the front of a line, 1..2^64-1 in decimal without leading zeros; nullopt: none.
std::optional<std::uint64_t> parse_id(std::string_view line);

/// Parses a request line without its '\n'.
Result<Request> parse_request(std::string_view line);

/// Parses the arguments after the program's name, and EGRESS_SECONDS and EGRESS_ACTION (null: not
/// set, so for ever and drop). An error with code EINVAL is an error of usage (verb, count).
Result<Event> parse_event(std::span<const char* const> arguments, const char* seconds,
                          const char* action);

std::string_view verb_name(Verb verb);
std::string_view action_name(Action action);

/// The line for this request, without '\n'.
std::string print(const Request& request);
/// PROTO ADDR MASKLEN PORT
void append(std::string& out, const Target& target);
/// PROTO ADDR MASKLEN PORT SECONDS ACTION PACKETS
void append(std::string& out, const Element& element);

/// "ID err TEXT\n", with the text made printable and cut to fit.
std::string error_line(std::uint64_t id, std::string_view text);

} // namespace egress::helper
