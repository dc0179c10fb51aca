// Columns as text, for print.cpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/policy/rules/rule.h"

namespace egress::policy {

using Row = std::vector<std::string>;

std::string print_prefix(const Prefix& prefix); ///< IPv6 in brackets
std::string print_type(const std::optional<int>& type);
std::string print_protocol(const Protocol& protocol);
} // namespace egress::policy
