// Eighth column of [local] and [remote]: "key=value" and flags with commas between.
#pragma once

#include <optional>

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

std::optional<Options> parse_options(const Cell& cell, const Context& context);

} // namespace egress::policy
