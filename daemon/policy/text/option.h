// The column of options, taken apart: "key=value" and flags with commas between.
#pragma once

#include <functional>
#include <string_view>

#include "daemon/policy/text/context.h"

namespace egress::policy {

/// One option taken apart.
struct Option {
    Cell whole;
    Cell key;
    Cell value;         ///< empty for a flag
    bool given = false; ///< there is a '='
};
/// Calls set(option) for each option of the column; false: one of them was wrong, and reported.
bool each_option(const Cell& cell, const Context& context,
                 const std::function<bool(const Option&)>& set);
/// False: reported that the value is missing.
bool needs_value(const Option& option, const Context& context, std::string_view example);
/// Reports that the option stands there again; false.
bool twice(const Option& option, const Context& context);

} // namespace egress::policy
