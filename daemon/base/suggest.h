// "Did you mean ...?": the known word that a mistyped one is nearest to.
#pragma once

#include <span>
#include <string_view>

namespace egress {

/// The candidate that is at most two slips of the finger away (one for a word of up to four
/// letters); empty where none is.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

} // namespace egress
