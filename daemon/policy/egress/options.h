// Seventh column of [egress].
#pragma once

#include <optional>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

std::optional<EgressOptions> parse_egress_options(const Cell& cell, const Context& context);

} // namespace egress::policy
