// Warnings for lines of [egress].
#pragma once

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/sources.h"

namespace egress::policy {

/// True if `first` matches everything that `second` matches, at all of its times. False if that is
/// uncertain.
bool covers(const EgressRule& first, const EgressRule& second);

/// Why this version cannot enforce the line ("the option token is not there yet"); empty: it can.
std::string not_yet(const EgressRule& rule);

/// Whether the destination is a name, or a list with one.
bool goes_by_name(const Policy& policy, const Destination& destination);

void check_egress(const Policy& policy, const Sources& sources, Diagnostics& out);

} // namespace egress::policy
