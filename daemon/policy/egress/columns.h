// Columns of [egress]: cell -> value, or nullopt and an error.
#pragma once

#include <optional>
#include <string>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// A whole line; reads every column even if one is wrong, to report every error at once.
std::optional<EgressRule> parse_egress(const Line& line, const Context& context);

std::optional<EgressOwner> parse_egress_owner(const Cell& cell, const Context& context);
std::optional<Program> parse_program(const Cell& cell, const Context& context);
std::optional<Verdict> parse_verdict(const Cell& cell, const Context& context);
/// Whether a path is that of the directory or of something below it.
bool same_or_below(std::string_view path, std::string_view directory);

} // namespace egress::policy
