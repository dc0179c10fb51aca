// Messages of the DNS from a recipe, so that a fuzzer comes to chains of CNAMEs, to compression and
// to letters of either case, which it would hardly find byte by byte.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace egress {

using Message = std::vector<std::uint8_t>;

/// The same message for the same recipe; any bytes are one. Most messages are answers that can be
/// read, some have a fault.
Message cook(std::span<const std::uint8_t> recipe);

} // namespace egress
