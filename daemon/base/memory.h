// Memory in the large, and pages that only the start or a burst needed.
#pragma once

#include <cstddef>

namespace egress {

inline constexpr std::size_t large_page = std::size_t{2} << 20;

/// Memory that begins at a multiple of its size, which is a multiple of large_page's; zeros, which
/// take no page before they are written. Throws std::bad_alloc. unmap() gives it back.
void* map_aligned(std::size_t bytes);
void unmap(void* begin, std::size_t bytes);

/// Says whether the kernel should use large pages for this memory. With small ones, the way to the
/// page of a byte that is read at random costs as much as the byte; a large one is taken as a whole
/// when its first byte is written. A kernel without them does nothing.
void use_large_pages(void* begin, std::size_t bytes, bool wanted);

/// Drops the clean pages of read-only file mappings: program text (libraries initialise far more
/// than a small daemon uses) and the database's map. The page cache supplies them again on use.
/// Pages with data of our own stay.
void trim_memory();

} // namespace egress
