// The column of options: "key=value" and flags with commas between. A section has one table of its
// options; parsing, messages and printing walk it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

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
/// False: reported that the option takes no value.
bool takes_no_value(const Option& option, const Context& context);
/// Reports that the option stands there again; false.
bool twice(const Option& option, const Context& context);
/// Reports that the section knows no such option, and which it knows; false.
bool unknown(const Option& option, const Context& context, std::span<const std::string_view> known);

/// The values of one option as text, one for each time that it stands on the line; "" is the option
/// without a value. Empty: the option is not set.
using OptionValues = std::vector<std::string>;

/// An option of a section whose options are kept in `Values`.
template <typename Values>
struct OptionRow {
    enum class Takes : std::uint8_t { nothing, value, either };
    enum class Again : std::uint8_t { refused, allowed }; ///< allowed: `set` may still refuse it

    std::string_view key;
    Takes takes = Takes::nothing;
    std::string_view example; ///< a good value; empty where the option takes none
    bool (*set)(const Option& option, const Context& context, Values& out); ///< false: reported
    OptionValues (*values)(const Values& from);
    Again again = Again::refused;
};

/// The value of an option that is an std::optional.
template <auto member, auto print, typename Values>
OptionValues value_of(const Values& from) {
    return from.*member ? OptionValues{print(*(from.*member))} : OptionValues{};
}

/// Sets one option as its row says; false: reported.
template <typename Values, typename Row>
bool set_option(const Option& option, const Context& context, std::span<const Row> table,
                Values& out) {
    const auto row = std::ranges::find(table, option.key.text, &Row::key);
    if (row == table.end()) {
        std::vector<std::string_view> known;
        std::ranges::transform(table, std::back_inserter(known), &Row::key);
        return unknown(option, context, known);
    }
    if (row->takes == Row::Takes::nothing && !takes_no_value(option, context)) {
        return false;
    }
    if (row->again == Row::Again::refused && !row->values(out).empty()) {
        return twice(option, context);
    }
    if (row->takes == Row::Takes::value &&
        !needs_value(option, context, fmt::format("{}={}", row->key, row->example))) {
        return false;
    }
    return row->set(option, context, out);
}

/// "key=value,flag", in the order of the table; parsing it gives the same options again.
template <typename Values, typename Row>
std::string print_options(const Values& options, std::span<const Row> table) {
    std::string out;
    for (const auto& row : table) {
        for (const auto& value : row.values(options)) {
            out += out.empty() ? "" : ",";
            out += value.empty() ? std::string(row.key) : fmt::format("{}={}", row.key, value);
        }
    }
    return out;
}

} // namespace egress::policy
