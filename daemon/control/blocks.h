// The verbs of /v1/blocks: list, make and end blocks by hand.
#pragma once

#include <nlohmann/json.hpp>

#include "daemon/control/parts.h"

namespace egress::verbs {

void list_blocks(Parts& parts, const Request& request, const Answer& answer);
void block(Parts& parts, const Request& request, const Answer& answer);
void unblock(Parts& parts, const Request& request, const Answer& answer);

/// One block of a body, as bulk.h reads them too.
Result<ManualBlock> read_block(const nlohmann::json& body);
/// The blocks to lift: "addr", or "all": true and no address.
Result<ManualUnblock> read_unblock(const nlohmann::json& body);

} // namespace egress::verbs
