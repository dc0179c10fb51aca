// The verbs of /v1/blocks: list, make and end blocks by hand.
#pragma once

#include <cstdint>
#include <optional>

#include <nlohmann/json.hpp>

#include "daemon/control/parts.h"

namespace egress::verbs {

void list_blocks(Parts& parts, const Request& request, const Answer& answer);
void block(Parts& parts, const Request& request, const Answer& answer);
void unblock(Parts& parts, const Request& request, const Answer& answer);

/// What the daemon must know of an asker to see what a block would cut off.
struct Insistence {
    bool force = false; ///< block nevertheless
    std::uint32_t uid = 0;
    std::optional<Endpoint> session; ///< client address and local port of the asker's log-in

    static Result<Insistence> of(const Request& request);
    /// The answer to a block that would cut off what its asker needs; nullopt: it would not, or
    /// the asker insists, which is logged.
    std::optional<Response> objection(const Ledger& ledger, const ManualBlock& manual) const;
};

/// One block of a body, as bulk.h reads them too.
Result<ManualBlock> read_block(const nlohmann::json& body);
/// The blocks to lift: "addr", or "all": true and no address.
Result<ManualUnblock> read_unblock(const nlohmann::json& body);

} // namespace egress::verbs
