// Addresses, prefixes and ports as the first column of a line has them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "daemon/base/address.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// Digits and dots: no name, were it ever so wrong as an address.
bool looks_like_v4(std::string_view text);
/// The prefix of an address and its length cell ("" where none was given, else "/..."). Host bits
/// are an error in [egress] and warned of elsewhere.
std::optional<Prefix> make_prefix(const Cell& whole, const Address& address, const Cell& length,
                                  bool written_as_v6, const Context& context);
/// "[v6]", "[v6]/len" or "[*]", perhaps with ":port" after it.
struct Bracketed {
    std::optional<Prefix> prefix; ///< nothing: "[*]"
    Cell port;                    ///< with its ':'; empty: none
};
std::optional<Bracketed> parse_bracketed(const Cell& cell, const Context& context);
/// Reports more than one ':' outside brackets.
std::nullopt_t too_many_colons(const Cell& cell, const Context& context);
/// Name or number, never "*".
std::optional<std::uint16_t> parse_port(const Cell& cell, const Context& context);

} // namespace egress::policy
