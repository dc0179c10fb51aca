// Warnings for lines of [egress].
#pragma once

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/sources.h"

namespace egress::policy {

/// Whether `first` matches whatever `second` does and at all times that it does. False where that
/// is not certain.
bool covers(const EgressRule& first, const EgressRule& second);

void check_egress(const Policy& policy, const Sources& sources, Diagnostics& out);

} // namespace egress::policy
