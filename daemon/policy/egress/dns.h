// Lines of [dns]: a key and its value.
#pragma once

#include <string>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"
#include "daemon/policy/text/lexer.h"

namespace egress::policy {

inline constexpr std::size_t max_resolvers = 64;
inline constexpr Seconds max_grace = 86400;

/// Reads one line into `out`; what is wrong is reported.
void parse_dns(const Line& line, const Context& context, Dns& out);

/// The section as text, with its header; empty: it has no lines.
std::string print_dns(const Dns& dns);

} // namespace egress::policy
