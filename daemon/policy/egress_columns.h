// Columns of [egress]: cell -> value, or nothing and an error that says why.
#pragma once

#include <optional>
#include <string>

#include "daemon/policy/columns.h"
#include "daemon/policy/egress_rule.h"

namespace egress::policy {

/// A whole line; every column is read even where one is wrong, to say everything in one go.
std::optional<EgressRule> parse_egress(const Line& line, const Context& context);

/// The name of a list is checked, the list not read.
std::optional<Destination> parse_destination(const Cell& cell, const Context& context);
/// "http,https,8000-8099", sorted and joined where they touch; "*" is none.
std::optional<std::vector<PortRange>> parse_ports(const Cell& cell, const Context& context);
std::optional<EgressOwner> parse_egress_owner(const Cell& cell, const Context& context);
std::optional<Program> parse_program(const Cell& cell, const Context& context);
std::optional<Verdict> parse_verdict(const Cell& cell, const Context& context);
std::optional<EgressOptions> parse_egress_options(const Cell& cell, const Context& context);

/// An absolute path with neither '.', '..' nor "//" in it, of at most `most` bytes; a `what` in
/// messages.
bool check_path(const Cell& cell, const Context& context, std::string_view what, std::size_t most);

/// "Mon-Fri+Sun/08:00-18:00", either half alone.
std::optional<Window> parse_window(const Cell& cell, const Context& context);
std::string print_window(const Window& window);
/// Seconds since the epoch of "2026-12-01T08:00:00+01:00"; without an offset it is local time,
/// without a time the beginning of the day.
std::optional<std::int64_t> parse_instant(const Cell& cell, const Context& context);
std::string print_instant(std::int64_t seconds); ///< in UTC

} // namespace egress::policy
