// Addresses, prefixes and ports of the first column.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "daemon/base/address.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// True for digits and dots: such a text is a wrong address rather than a name.
bool looks_like_v4(std::string_view text);
/// The prefix of an address and its length cell ("": none, else "/..."). Host bits are an error in
/// [egress] and a warning elsewhere.
std::optional<Prefix> make_prefix(const Cell& whole, const Address& address, const Cell& length,
                                  bool written_as_v6, const Context& context);
/// "[v6]", "[v6]/len" or "[*]", optionally followed by ":port".
struct Bracketed {
    std::optional<Prefix> prefix; ///< nullopt: "[*]"
    Cell port;                    ///< with its ':'; empty: none
};
std::optional<Bracketed> parse_bracketed(const Cell& cell, const Context& context);
/// Reports that there is more than one ':' outside brackets.
std::nullopt_t too_many_colons(const Cell& cell, const Context& context);
/// Name or number, never "*".
std::optional<std::uint16_t> parse_port(const Cell& cell, const Context& context);

} // namespace egress::policy
