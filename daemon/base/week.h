// The local week in boot time, for the kernel's hooks.
#pragma once

#include <cstdint>

#include "daemon/base/clock.h"

namespace egress {

/// Second of the local week (Monday 00:00 is 0) at zero of the boot clock. The kernel knows no time
/// zones: the daemon sends this again when the clock or daylight saving time changes.
std::uint64_t week_at_boot(const Clock& clock);

} // namespace egress
