// The verbs of /v1/blocks: list, make and end blocks by hand.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void list_blocks(Parts& parts, const Request& request, const Answer& answer);
void block(Parts& parts, const Request& request, const Answer& answer);
void unblock(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
