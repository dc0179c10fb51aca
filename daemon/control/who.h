// What the daemon knows of an address: which blocks and exemptions cover it, which lines of the
// rules would count a report about it, and how to forget all of that.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void which(Parts& parts, const Request& request, const Answer& answer);
void forget(Parts& parts, const Request& request, const Answer& answer);
void explain_report(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
