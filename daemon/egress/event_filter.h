// Selects a watcher's events: those that have one of the given values in each column that it names.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress {

class EventFilter {
  public:
    static constexpr std::size_t most_values = 64;
    using Query = std::vector<std::pair<std::string, std::string>>;

    /// Columns "action", "exe", "uid", "addr", "port" and "rule", each any number of times.
    static Result<EventFilter> of(const Query& query);
    /// `rule`, null: none matched.
    bool passes(const egress_event& event, const policy::EgressRule* rule) const;

  private:
    Result<> take(const std::string& name, const std::string& value);
    bool passes_rule(const policy::EgressRule* rule) const;

    std::vector<std::string> actions_;
    std::vector<std::string> programs_;
    std::vector<std::uint32_t> users_;
    std::vector<Prefix> destinations_;
    std::vector<std::uint16_t> ports_;
    std::vector<std::string> rules_;
};

} // namespace egress
