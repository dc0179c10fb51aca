// A line of [egress] as text.
#pragma once

#include "daemon/policy/print/print_columns.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress::policy {

/// Six columns or seven; a '#' in them is escaped.
Row egress_columns(const EgressRule& rule);

} // namespace egress::policy
