// GET /v1/traffic: what the hooks saw, as the database counts it, for `egressctl learn`.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void show_traffic(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
