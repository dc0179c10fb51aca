// The rules of the last good start or reload, which the database keeps.
//
// A wrong line in the rules files must not leave the host without any rules when it boots: egressd
// starts with the kept ones then, and says so loudly.
#pragma once

#include <optional>
#include <string>

#include "daemon/policy/rules/rule.h"

namespace egress {

inline constexpr const char* kept_rules_key = "rules"; ///< of the database's "meta"

struct KeptRules {
    policy::Policy policy;
    /// The lines of [egress] could not be read, for want of a list: the policy has none, and what
    /// the kernel has from before must stay.
    bool without_egress = false;
};

/// What to keep in the database.
std::string kept_text(const policy::Policy& policy);
/// nullopt: the database has none, or cannot be read. Lists are those beside `conf`.
std::optional<KeptRules> kept_rules(const std::string& database, const std::string& conf);

} // namespace egress
