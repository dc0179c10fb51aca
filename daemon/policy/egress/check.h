// Warnings for lines of [egress].
#pragma once

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/sources.h"

namespace egress::policy {

/// True if `first` matches everything that `second` matches, at all of its times. False if that is
/// uncertain.
bool covers(const EgressRule& first, const EgressRule& second);

void check_egress(const Policy& policy, const Sources& sources, Diagnostics& out);

} // namespace egress::policy
