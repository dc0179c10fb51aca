// Many blocks in one request: a JSON array of what the single verbs take, all or nothing.
//
// The list is checked to its end before anything changes. Then it is applied in pieces, and the
// answer comes when everything is durable.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void block_many(Parts& parts, const Request& request, const Answer& answer);
void unblock_many(Parts& parts, const Request& request, const Answer& answer);
/// The body {"all": true}, with or without name, protocol and port.
void unblock_all(Parts& parts, const Request& request, const Answer& answer,
                 const ManualUnblock& wanted);

} // namespace egress::verbs
