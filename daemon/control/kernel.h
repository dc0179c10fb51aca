// The verbs of the kernel's hooks: explain, test, watch, detach.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void explain(Parts& parts, const Request& request, const Answer& answer);
/// Makes the caller the only process that may test the hooks.
void selftest(Parts& parts, const Request& request, const Answer& answer);
void end_selftest(Parts& parts, const Request& request, const Answer& answer);
void watch(Parts& parts, const Request& request, const Answer& answer);
void detach(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
