#include "daemon/policy/rules/name_patterns.h"

#include <cassert>

namespace egress::policy {

namespace {

constexpr std::size_t least_piece = 64; // a short list takes little
constexpr std::size_t most_piece = 256U << 10;
[[maybe_unused]] constexpr std::size_t longest = 255;

} // namespace

void NamePatterns::add(const Pattern& pattern) {
    assert(pattern.name.size() <= longest);
    const std::size_t needed = 2 + pattern.name.size();
    if (pieces_.empty() || pieces_.back().capacity() - pieces_.back().size() < needed) {
        auto size = pieces_.empty() ? least_piece : 2 * pieces_.back().capacity();
        size = size > most_piece ? most_piece : size;
        pieces_.emplace_back().reserve(size < needed ? needed : size);
    }
    auto& piece = pieces_.back();
    piece += static_cast<char>(pattern.kind);
    piece += static_cast<char>(pattern.name.size());
    piece += pattern.name;
    ++size_;
}

std::size_t NamePatterns::bytes() const {
    std::size_t out = 0;
    for (const auto& piece : pieces_) {
        out += sizeof piece + piece.capacity();
    }
    return out;
}

} // namespace egress::policy
