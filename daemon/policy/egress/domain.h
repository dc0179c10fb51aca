// DNS names as rules and lists give them.
#pragma once

#include <expected>
#include <string_view>

#include "daemon/policy/rules/egress_rule.h"

namespace egress::policy {

/// What is wrong with a text, and what to write instead (may be null).
struct NameProblem {
    const char* what;
    const char* hint;
};

/// "name", "*.name", "**.name": kind and text of a Destination, in lower case and without the dot
/// at the end. Letters, digits, '-' and '_' make a label; what ends in a number is no name but half
/// an address. Names beyond ASCII stand in their "xn--" form.
std::expected<Destination, NameProblem> parse_domain(std::string_view text);

} // namespace egress::policy
