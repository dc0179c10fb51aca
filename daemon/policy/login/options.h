// Eighth column of [local] and [remote]: "key=value" and flags with commas between.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/context.h"
#include "daemon/policy/text/option.h"

namespace egress::policy {

/// Every option; a new one is a row of it.
std::span<const OptionRow<LoginOptions>> option_table();

std::optional<LoginOptions> parse_options(const Cell& cell, const Context& context);
/// The column as text; empty: no option is set.
std::string print_options(const LoginOptions& options);

/// Last column of [trusted].
std::span<const OptionRow<Trusted>> trusted_option_table();
bool parse_trusted_options(const Cell& cell, const Context& context, Trusted& out);
std::string print_trusted_options(const Trusted& line);

} // namespace egress::policy
