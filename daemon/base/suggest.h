// "Did you mean ...?": the known word nearest to a mistyped one.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace egress {

/// The nearest candidate within two typing errors (one for a word of up to four letters); empty:
/// none.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);
/// The end of a message about an unknown word: did you mean "x"?, or which are known.
std::string hint(std::string_view word, std::span<const std::string_view> candidates);

} // namespace egress
