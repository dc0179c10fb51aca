// A line of [egress] as text.
#pragma once

#include "daemon/policy/print/print_columns.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress::policy {

/// Six or seven columns; escapes '#'.
Row egress_columns(const EgressRule& rule);

} // namespace egress::policy
