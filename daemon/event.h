// One look of the kernel's hooks -> one JSON object.
//
// The keys are fixed (egressctl(8) lists them); what is not known is absent. Everything that a
// process could have chosen (names, paths, the host name) is text from outside.
#pragma once

#include <nlohmann/json.hpp>

#include "daemon/bpf/loader.h"
#include "daemon/clock.h"
#include "daemon/policy/egress_rule.h"

namespace egress {

/// Names of users and groups by number, from the system's own files; read once.
class OwnerNames {
  public:
    void load();
    const std::string* user(std::uint32_t uid) const;
    const std::string* group(std::uint32_t gid) const;

  private:
    std::vector<std::pair<std::uint32_t, std::string>> users_; // sorted
    std::vector<std::pair<std::uint32_t, std::string>> groups_;
};

/// `rule` is null for what no rule matched. `loader` knows the paths of ancestors; may be null.
nlohmann::json event_json(const egress_event& event, const policy::EgressRule* rule,
                          const OwnerNames& names, const bpf::Loader* loader, const Clock& clock);

/// "BLOCKED", "ALLOWED" or "MONITOR".
std::string_view action_text(const egress_event& event);

} // namespace egress
