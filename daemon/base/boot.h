// This boot of the machine: its name, and the time since it began.
#pragma once

#include <cstdint>
#include <string>

namespace egress {

/// The kernel's random name of this boot; empty where /proc does not tell.
std::string boot_id();
/// Nanoseconds of CLOCK_BOOTTIME, the clock of the hooks' events and deadlines.
std::uint64_t boot_nanoseconds();

} // namespace egress
