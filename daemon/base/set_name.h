// Valid names of rules, which also name nftables sets.
#pragma once

#include <algorithm>
#include <string_view>

namespace egress {

inline constexpr std::size_t max_set_name = 63;

/// Letters, digits, "_", "-" and "."; the first is a letter, a digit or "_"; at most 63 bytes.
constexpr bool is_set_name(std::string_view text) {
    const auto fits = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '-' || c == '.';
    };
    return !text.empty() && text.size() <= max_set_name && text.front() != '-' &&
           text.front() != '.' && std::ranges::all_of(text, fits);
}

} // namespace egress
