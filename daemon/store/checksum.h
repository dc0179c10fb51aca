// CRC-32C (Castagnoli; RFC 3720, B.4) of the database's content, to detect bits that flip on the
// disk or in memory.
//
// It needs a few lines with the processor's own instruction; zlib would be one more library with a
// weaker polynomial. It protects against accidents, not against a user who may write the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace egress::store {

/// Continues `before`, which is 0 at the start.
std::uint32_t crc32c(std::span<const std::uint8_t> bytes, std::uint32_t before = 0);
/// The same without the instruction, for processors that lack it and to test the fast version.
std::uint32_t crc32c_by_table(std::span<const std::uint8_t> bytes, std::uint32_t before = 0);

} // namespace egress::store
