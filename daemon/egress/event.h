// One event of the kernel's hooks -> one JSON object.
//
// The keys are fixed (egressctl(8) lists them); an unknown value has no key. Everything that a
// process could have chosen (names, paths, the host name) is untrusted text.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "daemon/base/clock.h"
#include "daemon/base/ids.h"
#include "daemon/bpf/load/loader.h"
#include "daemon/policy/rules/egress_rule.h"
#include "daemon/store/event_row.h"

namespace egress {

/// Names of users and groups of this system, for events.
class OwnerNames {
  public:
    void load();
    const Ids& users() const { return users_; }
    const Ids& groups() const { return groups_; }

  private:
    Ids users_;
    Ids groups_;
};

/// `rule`, null: none matched. `domain`, empty: the rule matched by no name that is known. `loader`
/// provides the paths of ancestors; null: without them.
nlohmann::json event_json(const egress_event& event, const policy::EgressRule* rule,
                          const std::string& domain, const OwnerNames& names,
                          const bpf::Loader* loader, const Clock& clock);

/// "stream", "dgram", "raw", or the number.
std::string type_text(std::uint8_t type);

/// "BLOCKED", "ALLOWED" or "MONITOR".
std::string_view action_text(const egress_event& event);

/// The row that the store keeps of an event.
store::EventRow event_row(const egress_event& event, const policy::EgressRule* rule,
                          const Clock& clock);

} // namespace egress
