// Blocks as they begin, are extended and end, as JSON lines for watchers (GET
// /v1/events?kind=blocks).
#pragma once

#include <string>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/result.h"
#include "daemon/control/http.h"
#include "daemon/count/ledger.h"

namespace egress {

/// Selects changes: those that have one of the given values in each column that it names.
class BlockFilter {
  public:
    /// Columns "action" (BLOCK, EXTEND, LIFT), "addr", "port" and "name".
    static Result<BlockFilter> of(const decltype(Request::query)& query);
    bool passes(const BlockChange& change, const std::string& name) const;

  private:
    Result<> take(const std::string& column, const std::string& value);

    std::vector<std::string> actions_;
    std::vector<Prefix> addresses_;
    std::vector<std::uint16_t> ports_;
    std::vector<std::string> names_;
};

/// One line without its end. What is true of the block by now stands in it.
std::string change_json(const Ledger& ledger, const BlockChange& change);

} // namespace egress
