// What a block by hand would cut off that its asker hardly wants to lose.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/count/ledger.h"

namespace egress {

/// One text per thing, for people; empty: the block is harmless. `session`: the client's address
/// and the local port of the log-in session that asks; nullopt: it comes from no client.
std::vector<std::string> cut_off(const Ledger& ledger, const ManualBlock& block,
                                 const std::optional<Endpoint>& session);

} // namespace egress
