// Names of IP protocols in the API, the helper's lines and events: "tcp", "udp", else a number.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace egress {

/// "tcp", "udp" or a number; `any` for 0.
std::string protocol_name(int protocol, std::string_view any = "0");
/// "tcp", "udp" or a number up to 255; nullopt: none of them.
std::optional<std::uint8_t> protocol_of(std::string_view text);

} // namespace egress
