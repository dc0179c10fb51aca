// CRC-32C (Castagnoli; RFC 3720, B.4): of what stands in the database, so that a bit that flips on
// the disk or in memory is seen.
//
// It is a few lines with the processor's own instruction, where zlib would be one more library for
// a weaker polynomial. It guards against accidents, not against somebody who may write the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace egress::store {

/// Continues `before`, which is 0 at the start.
std::uint32_t crc32c(std::span<const std::uint8_t> bytes, std::uint32_t before = 0);
/// The same without the instruction; for processors that lack it, and for the test of the other.
std::uint32_t crc32c_by_table(std::span<const std::uint8_t> bytes, std::uint32_t before = 0);

} // namespace egress::store
