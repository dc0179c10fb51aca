// Seventh column of [egress].
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"
#include "daemon/policy/text/option.h"

namespace egress::policy {

struct EgressOptionRow : OptionRow<EgressOptions> {
    enum class Enforced : std::uint8_t { now, later };

    /// Whether what a line with the options `a` asks by this option holds wherever the options `b`
    /// do; false where that is not certain. Null: the option does not say what a line matches.
    bool (*covers)(const EgressOptions& a, const EgressOptions& b) = nullptr;
    Enforced enforced = Enforced::now; ///< later: this version reads it and refuses to enforce it
};

/// Every option; a new one is a row of it.
std::span<const EgressOptionRow> egress_option_table();

std::optional<EgressOptions> parse_egress_options(const Cell& cell, const Context& context);
/// The column as text; empty: no option is set.
std::string print_options(const EgressOptions& options);

} // namespace egress::policy
