// Parses the fields of requests strictly, one at a time. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "helper/proto.h"

namespace egress::helper {

/// True for ASCII that a line may contain.
bool printable(char c);

/// A peer's text for an error text: quoted, printable, short.
std::string shown(std::string_view text);

Result<std::string> parse_name(std::string_view text);

/// PROTO ADDR MASKLEN PORT, and SECONDS ACTION if `whole`. Both "" and "*" mean any.
Result<Block> parse_block(std::span<const std::string_view> fields, bool whole);

} // namespace egress::helper
