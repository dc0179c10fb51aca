// Values of columns that the lines of all sections share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <sys/socket.h>

#include "daemon/base/clock.h"

namespace egress::policy {

/// The place of a line or cell, for messages. Columns count from 1.
struct Place {
    std::string file;
    int line = 0;
    int column = 0;
    std::string text() const; ///< "file:line:column" without parts that are 0; escaped
};

inline constexpr Seconds max_duration = 2147483647; ///< seconds; the longest time except "*"

/// Third column of all sections: "tcp", "tcp4", "tcp6", the same of "udp", a number, "*".
struct Protocol {
    std::optional<int> number; ///< IPPROTO_*; nullopt: any
    int family = AF_UNSPEC;    ///< AF_INET, AF_INET6 for the forms that end in 4, 6
    friend bool operator==(const Protocol&, const Protocol&) = default;
};

/// A number column that may also be "*" or "=".
template <typename T>
struct Setting {
    enum class Kind : std::uint8_t { value, unlimited, inherit };
    Kind kind = Kind::value;
    T value{};
    friend bool operator==(const Setting&, const Setting&) = default;
};

} // namespace egress::policy
