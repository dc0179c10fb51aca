// Reads configuration files of the system, which anything may be in the place of.
#pragma once

#include <cstddef>
#include <string>

namespace egress {

/// The first bytes of a regular file; "": there is none, or it cannot be read. Never waits for a
/// writer, as of a FIFO.
std::string read_small_file(const std::string& path, std::size_t most_bytes = 64U << 10);

} // namespace egress
