// The rules as a whole: read from the files, put in force, or not.
//
// New rules replace all sections or none. [egress] takes its time, as the kernel is filled with it
// on a thread of its own: the other sections follow when it is in force. Where the kernel half
// works not at all, they do without it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daemon/clock.h"
#include "daemon/enforcer.h"
#include "daemon/ledger.h"
#include "daemon/policy/parser.h"

namespace egress {

/// What is known of the rules in force and of the last try to replace them.
struct RulesState {
    std::vector<std::string> files;
    std::int64_t loaded = 0; ///< wall-clock seconds
    std::string last_error;  ///< of the last reload; empty where it went well
};

class Rulebook {
  public:
    /// What became of new rules.
    struct Report {
        bool parsed = false; ///< no errors among the diagnostics
        std::vector<policy::Diagnostic> diagnostics;
        Result<> force; ///< whether [egress] is in force; not tried where not parsed
    };
    using Done = std::function<void(const Report&)>;

    Rulebook(const Clock& clock, Ledger& ledger, Enforcer& enforcer, std::string conf);

    /// Puts the rules in force with which the ledger began.
    void begin(Enforcer::OnForce done);
    /// New rules from the files, or the old ones. `done` is called once, now or within
    /// Enforcer::patience.
    void reload(Done done);

    const RulesState& state() const { return state_; }
    /// "conf" -> "conf.d".
    static std::string directory_of(const std::string& conf) { return conf + ".d"; }

  private:
    void put_in_force(policy::Policy policy, Enforcer::OnForce done);
    void note(const Report& report);

    const Clock& clock_;
    Ledger& ledger_;
    Enforcer& enforcer_;
    std::string conf_;
    RulesState state_;
};

} // namespace egress
