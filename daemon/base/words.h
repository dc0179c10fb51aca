// Numbers and ports in messages for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace egress {

/// "1 block made", "2 blocks made": the number, and the words with their first in the right form.
inline std::string counted(std::uint64_t number, std::string_view words) {
    const auto first = words.substr(0, words.find(' '));
    const std::size_t ending = first.ends_with("sses") || first.ends_with("xes") ? 2
                               : first.ends_with('s') && !first.ends_with("ss")  ? 1
                                                                                 : 0;
    const auto one = first.substr(0, first.size() - ending);
    return fmt::format("{} {}{}", number, number == 1 ? one : first, words.substr(first.size()));
}

/// " port 22", or "" for 0, which stands for every port.
inline std::string at_port(std::uint16_t port) {
    return port == 0 ? std::string() : fmt::format(" port {}", port);
}

} // namespace egress
