// One look of the kernel's hooks -> one JSON object.
//
// The keys are fixed (egressctl(8) lists them); what is not known is absent. Everything that a
// process could have chosen (names, paths, the host name) is text from outside.
#pragma once

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

/// `rule` is null for what no rule matched. `loader` knows the paths of ancestors; may be null.
nlohmann::json event_json(const egress_event& event, const policy::EgressRule* rule,
                          const OwnerNames& names, const bpf::Loader* loader, const Clock& clock);

/// "BLOCKED", "ALLOWED" or "MONITOR".
std::string_view action_text(const egress_event& event);

/// What is remembered of an event.
store::EventRow event_row(const egress_event& event, const policy::EgressRule* rule,
                          const Clock& clock);

} // namespace egress
