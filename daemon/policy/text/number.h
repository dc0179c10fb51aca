// Numbers and durations in a column.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/base/clock.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// ASCII, whatever the locale.
constexpr bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/// Decimal; as in C, a leading 0 means octal (with a warning) and 0x hexadecimal. Messages call the
/// number `what`.
std::optional<std::uint64_t> parse_number(const Cell& cell, const Context& context,
                                          std::string_view what, std::uint64_t least,
                                          std::uint64_t most);
/// "90", "1h30m", ...: seconds; compounds add up. At most max_duration.
std::optional<Seconds> parse_duration(const Cell& cell, const Context& context);
/// "1h30m", "7d", "*" for ever, "0s".
std::string print_duration(Seconds seconds);

} // namespace egress::policy
