// Numbers and texts of the database's keys and values: big-endian, each text after its length.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace egress::store {

using Bytes = std::vector<std::uint8_t>;

inline void put(Bytes& out, std::uint64_t value, int bytes) {
    for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) {
        out.push_back(static_cast<std::uint8_t>(value >> shift));
    }
}

/// Cuts the text at `limit`, which must fit into `length_bytes`.
inline void put_text(Bytes& out, std::string_view text, std::size_t limit, int length_bytes) {
    text = text.substr(0, limit);
    put(out, text.size(), length_bytes);
    out.insert(out.end(), text.begin(), text.end());
}

/// Reads from the front. Once there are too few bytes, every result is empty and ok() is false.
class ByteReader {
  public:
    explicit ByteReader(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

    std::span<const std::uint8_t> take(std::size_t count) {
        if (count > bytes_.size()) {
            ok_ = false;
            bytes_ = {};
            return {};
        }
        const auto part = bytes_.first(count);
        bytes_ = bytes_.subspan(count);
        return part;
    }
    std::uint32_t number(std::size_t count) { return static_cast<std::uint32_t>(large(count)); }
    std::uint64_t large(std::size_t count) {
        std::uint64_t value = 0;
        for (const auto byte : take(count)) {
            value = value << 8 | byte;
        }
        return value;
    }
    std::string text(std::size_t length_bytes) {
        const auto part = take(number(length_bytes));
        return {part.begin(), part.end()};
    }
    bool done() const { return ok_ && bytes_.empty(); }
    bool ok() const { return ok_; }

  private:
    std::span<const std::uint8_t> bytes_;
    bool ok_ = true;
};

} // namespace egress::store
