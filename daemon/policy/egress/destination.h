// First column of [egress].
#pragma once

#include <optional>
#include <vector>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// The name of a list is checked, the list not read.
std::optional<Destination> parse_destination(const Cell& cell, const Context& context);
/// "http,https,8000-8099", sorted and joined where they touch; "*" is none.
std::optional<std::vector<PortRange>> parse_ports(const Cell& cell, const Context& context);

} // namespace egress::policy
