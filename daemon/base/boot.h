// This boot of the machine: its id and the time since its start.
#pragma once

#include <cstdint>
#include <string>

namespace egress {

/// The kernel's random id of this boot; empty: /proc is unavailable.
std::string boot_id();
/// Nanoseconds of CLOCK_BOOTTIME, the clock of the hooks' events and deadlines.
std::uint64_t boot_nanoseconds();

} // namespace egress
