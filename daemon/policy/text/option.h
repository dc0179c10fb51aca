// Splits the column of options: "key=value" and flags, separated by commas.
#pragma once

#include <functional>
#include <string_view>

#include "daemon/policy/text/context.h"

namespace egress::policy {

/// One option.
struct Option {
    Cell whole;
    Cell key;
    Cell value;         ///< empty for a flag
    bool given = false; ///< it has a '='
};
/// Calls set(option) for each option of the column. False: one of them is wrong, which is reported.
bool each_option(const Cell& cell, const Context& context,
                 const std::function<bool(const Option&)>& set);
/// False: the value is missing, which is reported.
bool needs_value(const Option& option, const Context& context, std::string_view example);
/// Reports that the option is given twice. Returns false.
bool twice(const Option& option, const Context& context);

} // namespace egress::policy
