// The local week, as the kernel's hooks reckon it.
#pragma once

#include <cstdint>

#include "daemon/base/clock.h"

namespace egress {

/// Second of the local week (Monday 00:00 is 0) at zero of the boot clock. The kernel knows no time
/// zones: it is told anew when the clock or the season changes.
std::uint64_t week_at_boot(const Clock& clock);

} // namespace egress
