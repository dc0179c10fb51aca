// Columns of [egress]: cell -> value, or nothing and an error that says why.
#pragma once

#include <optional>
#include <string>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// A whole line; every column is read even where one is wrong, to say everything in one go.
std::optional<EgressRule> parse_egress(const Line& line, const Context& context);

std::optional<EgressOwner> parse_egress_owner(const Cell& cell, const Context& context);
std::optional<Program> parse_program(const Cell& cell, const Context& context);
std::optional<Verdict> parse_verdict(const Cell& cell, const Context& context);
/// An absolute path with neither '.', '..' nor "//" in it, of at most `most` bytes; a `what` in
/// messages.
bool check_path(const Cell& cell, const Context& context, std::string_view what, std::size_t most);

} // namespace egress::policy
