// UTF-8 decoding (RFC 3629), for the library, the daemon and its tools.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace egress::utf8 {

/// Length in bytes of the sequence that `lead` starts; 0: `lead` cannot start a sequence.
constexpr std::size_t length_of(unsigned char lead) {
    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4) {
        return 0;
    }
    return lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
}

constexpr bool is_continuation(char c) {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

struct Character {
    std::uint32_t point = 0; ///< code point
    std::size_t length = 0;  ///< in bytes; 0: no well-formed character
};

/// The first character of `text`, which must not be empty.
constexpr Character first(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text[0]);
    const std::size_t length = length_of(lead);
    if (length <= 1 || text.size() < length) {
        return length == 1 ? Character{lead, 1} : Character{};
    }
    std::uint32_t point = lead & (0xffu >> (length + 1));
    for (std::size_t i = 1; i < length; ++i) {
        if (!is_continuation(text[i])) {
            return {};
        }
        point = point << 6 | (static_cast<unsigned char>(text[i]) & 0x3fu);
    }
    constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return point < least[length] || surrogate || point > 0x10ffff ? Character{}
                                                                  : Character{point, length};
}

/// True for control characters and for characters that move, hide or reorder their neighbours: line
/// and paragraph separators, direction overrides, invisible marks, tags.
constexpr bool is_harmful(std::uint32_t point) {
    const auto in = [point](std::uint32_t from, std::uint32_t to) {
        return point >= from && point <= to;
    };
    return point < 0x20 || in(0x7f, 0x9f) || point == 0x061c || in(0x200b, 0x200f) ||
           in(0x2028, 0x202e) || in(0x2060, 0x206f) || point == 0xfeff || in(0xfff0, 0xfffb) ||
           in(0xe0000, 0xe0fff);
}

} // namespace egress::utf8
