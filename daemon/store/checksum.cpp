#include "daemon/store/checksum.h"

#include <array>
#include <cstring>

namespace egress::store {

namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
    constexpr std::uint32_t polynomial = 0x82f63b78; // 0x1edc6f41, bits reversed
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
        std::uint32_t value = byte;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value & 1) != 0 ? value >> 1 ^ polynomial : value >> 1;
        }
        table[byte] = value;
    }
    return table;
}

constexpr auto table = make_table();

#if defined(__x86_64__)

[[gnu::target("sse4.2")]] std::uint32_t by_instruction(std::span<const std::uint8_t> bytes,
                                                       std::uint32_t before) {
    std::uint64_t value = ~before;
    for (; bytes.size() >= sizeof value; bytes = bytes.subspan(sizeof value)) {
        std::uint64_t word = 0;
        std::memcpy(&word, bytes.data(), sizeof word);
        value = __builtin_ia32_crc32di(value, word);
    }
    auto rest = static_cast<std::uint32_t>(value);
    for (const auto byte : bytes) {
        rest = __builtin_ia32_crc32qi(rest, byte);
    }
    return ~rest;
}

const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;

#endif

} // namespace

std::uint32_t crc32c_by_table(std::span<const std::uint8_t> bytes, std::uint32_t before) {
    std::uint32_t value = ~before;
    for (const auto byte : bytes) {
        value = value >> 8 ^ table[(value ^ byte) & 0xff];
    }
    return ~value;
}

std::uint32_t crc32c(std::span<const std::uint8_t> bytes, std::uint32_t before) {
#if defined(__x86_64__)
    if (has_instruction) {
        return by_instruction(bytes, before);
    }
#endif
    return crc32c_by_table(bytes, before);
}

} // namespace egress::store
