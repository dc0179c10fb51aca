// The fields of requests, one at a time: text to value, strictly. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "helper/proto.h"

namespace egress::helper {

/// ASCII that can stand in a line.
bool printable(char c);

/// What a peer wrote, for an error text: quoted, printable, short.
std::string shown(std::string_view text);

Result<std::string> parse_name(std::string_view text);

/// PROTO ADDR MASKLEN PORT, and SECONDS ACTION where `whole`. "" and "*" both stand for any.
Result<Block> parse_block(std::span<const std::string_view> fields, bool whole);

} // namespace egress::helper
