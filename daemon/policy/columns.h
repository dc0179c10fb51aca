// One function per kind of column: cell -> value, or nothing and an error that says why.
#pragma once

#include <cstdint>
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

/// Checks a line of [egress] as far as this version does.
bool check_egress(const Line& line, const Context& context);

} // namespace egress::policy
