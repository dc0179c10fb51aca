// DNS names in rules and lists.
#pragma once

#include <expected>
#include <string_view>

#include "daemon/policy/rules/egress_rule.h"

namespace egress::policy {

/// What is wrong with a text, and what to write instead (null: no hint).
struct NameProblem {
    const char* what;
    const char* hint;
};

/// "name", "*.name", "**.name": kind and text of a Destination, in lower case without the final
/// dot. A label consists of letters, digits, '-' and '_'. A text that ends in a number is half an
/// address rather than a name. Names beyond ASCII must be in their "xn--" form.
std::expected<Destination, NameProblem> parse_domain(std::string_view text);

} // namespace egress::policy
