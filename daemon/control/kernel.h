// The verbs of the kernel's hooks: explained, tested, watched, taken out.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void explain(Parts& parts, const Request& request, const Answer& answer);
/// The caller, and no other process, becomes the one that tests the hooks.
void selftest(Parts& parts, const Request& request, const Answer& answer);
void end_selftest(Parts& parts, const Request& request, const Answer& answer);
void watch(Parts& parts, const Request& request, const Answer& answer);
void detach(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
