// Policy -> canonical text. Parsing that text gives the same policy again.
#pragma once

#include <string>

#include "daemon/policy/rules/rule.h"

namespace egress::policy {

/// Sections in the order settings, local, remote, trusted, egress, with aligned columns, numbers
/// for ports, users and protocols (names differ between machines), durations as "1h30m".
std::string print(const Policy& policy);
/// One line of [local] or [remote], or of [egress], with single blanks between columns (for
/// logs and explain).
std::string print(const Rule& rule);
std::string print(const EgressRule& rule);

} // namespace egress::policy
