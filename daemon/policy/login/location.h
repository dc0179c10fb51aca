// First column of [local], [remote] and [trusted].
#pragma once

#include <optional>

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

std::optional<Location> parse_location(const Cell& cell, const Context& context);

} // namespace egress::policy
