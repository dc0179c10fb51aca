// One function per kind of column: cell -> value, or nothing and an error that says why.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "daemon/policy/diagnostics.h"
#include "daemon/policy/lexer.h"
#include "daemon/policy/names.h"
#include "daemon/policy/rule.h"

namespace egress::policy {

enum class Section : std::uint8_t { local, remote, trusted, settings, egress };

/// What every column parser works with.
struct Context {
    Diagnostics& out;
    LocalNames& names;
    Section section = Section::local;

    bool remote() const { return section == Section::remote; }
    /// Reports and gives nothing, so that a parser can `return context.error(...)`.
    std::nullopt_t error(const Cell& cell, std::string text, std::string hint = {}) const {
        out.error(cell.place(), std::move(text), std::move(hint));
        return std::nullopt;
    }
};

/// Decimal; as in C, a leading 0 is octal (and warned of) and 0x hexadecimal. `what` names it.
std::optional<std::uint64_t> parse_number(const Cell& cell, const Context& context,
                                          std::string_view what, std::uint64_t least,
                                          std::uint64_t most);
/// "90", "1h30m", ...: seconds; compounds add up. At most max_duration.
std::optional<Seconds> parse_duration(const Cell& cell, const Context& context);

std::optional<Location> parse_location(const Cell& cell, const Context& context);
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
/// False: reported. `out` is nothing for "*".
bool parse_type(const Cell& cell, const Context& context, std::optional<int>& out);
std::optional<Protocol> parse_protocol(const Cell& cell, const Context& context);
bool parse_owner(const Cell& cell, const Context& context, std::optional<std::uint32_t>& out);
/// `family` is the one family that the line matches, or AF_UNSPEC.
std::optional<Name> parse_name(const Cell& cell, const Context& context, int family);
std::optional<Setting<std::uint32_t>> parse_nfail(const Cell& cell, const Context& context);
std::optional<Setting<Seconds>> parse_disable(const Cell& cell, const Context& context);
std::optional<Options> parse_options(const Cell& cell, const Context& context);

/// One option taken apart.
struct Option {
    Cell whole;
    Cell key;
    Cell value;         ///< empty for a flag
    bool given = false; ///< there is a '='
};
/// Calls set(option) for each option of the column; false: one of them was wrong, and reported.
bool each_option(const Cell& cell, const Context& context,
                 const std::function<bool(const Option&)>& set);
/// False: reported that the value is missing.
bool needs_value(const Option& option, const Context& context, std::string_view example);
/// Reports that the option stands there again; false.
bool twice(const Option& option, const Context& context);

} // namespace egress::policy
