// First column of [egress].
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// Checks the name of a list; does not read the list.
std::optional<Destination> parse_destination(const Cell& cell, const Context& context);
/// "http,https,8000-8099", sorted; adjoining ones are joined; "*" gives an empty list.
std::optional<std::vector<PortRange>> parse_ports(const Cell& cell, const Context& context);

/// What is wrong with the name of a socket of AF_UNIX, a path or "@name"; "": nothing.
std::string socket_objection(const std::string& name);

} // namespace egress::policy
