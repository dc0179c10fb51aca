#include "daemon/policy/text/option.h"

#include <algorithm>

#include <fmt/format.h>

namespace egress::policy {

bool needs_value(const Option& option, const Context& context, std::string_view example) {
    if (!option.value.text.empty()) {
        return true;
    }
    context.error(option.whole, fmt::format("option {} needs a value", quote(option.key.text)),
                  fmt::format("as in {}", example));
    return false;
}

bool twice(const Option& option, const Context& context) {
    context.error(option.whole, fmt::format("option {} is given twice", quote(option.key.text)),
                  "each may stand once");
    return false;
}

bool takes_no_value(const Option& option, const Context& context) {
    if (option.given) {
        context.error(option.whole, fmt::format("option {} takes no value", option.key.text));
    }
    return !option.given;
}

bool unknown(const Option& option, const Context& context,
             std::span<const std::string_view> known) {
    const auto key = option.key.text;
    context.error(option.whole, fmt::format("unknown option {}", quote(key)),
                  suggestion(key, known, fmt::format("known are {}", fmt::join(known, ", "))));
    return false;
}

bool each_option(const Cell& cell, const Context& context,
                 const std::function<bool(const Option&)>& set) {
    bool good = true;
    for (std::size_t at = 0; at <= cell.text.size();) {
        Option option;
        option.whole = cell.part(at).before(',');
        at += option.whole.text.size() + 1;
        if (option.whole.text.empty()) {
            context.error(option.whole, "an empty option", "is a ',' too many?");
            good = false;
            continue;
        }
        option.key = option.whole.before('=');
        option.given = option.key.text.size() < option.whole.text.size();
        option.value =
            option.whole.part(std::min(option.key.text.size() + 1, option.whole.text.size()));
        good = set(option) && good;
    }
    return good;
}

} // namespace egress::policy
