// Decimal text -> number.
#pragma once

#include <charconv>
#include <concepts>
#include <optional>
#include <string_view>

namespace egress {

/// Parses all of `text` as a number without sign; nullopt: it is none, or does not fit T.
template <std::integral T>
std::optional<T> parse_decimal(std::string_view text) {
    T value{};
    const auto* const last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, value);
    const bool digits = !text.empty() && text[0] != '-';
    return digits && error == std::errc{} && end == last ? std::optional(value) : std::nullopt;
}

} // namespace egress
