// The verbs of egressctl run: begin a run, and tell what one was refused.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

/// Puts the asking process, and all that it starts from now on, behind rules of its own.
void begin_run(Parts& parts, const Request& request, const Answer& answer);
void show_run(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
