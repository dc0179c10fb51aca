// What is asked of the enforcer, and what can become of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "daemon/bpf/tables/lockout.h"
#include "daemon/policy/rules/rule.h"

namespace egress {

/// What became of rules of [egress] that were to be put in force.
enum class Applied : std::uint8_t {
    in_force,
    lockout,    ///< refused: they cut off what the asker needs; Enforcer::lockouts() has the lines
    superseded, ///< other rules were applied before these were begun, or all were detached
    still_pending, ///< not known after Enforcer::patience; they may still come into force
    unavailable,   ///< not tried, for want of a thread or a descriptor; a later try may go well
    failed,        ///< the kernel, or this system, cannot have them
};

struct ApplyOutcome {
    Applied applied = Applied::in_force;
    std::string error; ///< why they are not in force; for people
    bool in_force() const { return applied == Applied::in_force; }
};
using OnApplied = std::function<void(const ApplyOutcome&)>;

struct ApplyRequest {
    policy::Policy policy;
    /// With an asker, rules that cut off what he or the system needs are not put in force; without,
    /// lockouts are only reported.
    std::optional<bpf::Asker> asker;
    OnApplied done;     ///< called once, now or later; may be empty
    bool first = false; ///< at the start: the rules in force before are those of another daemon
};

} // namespace egress
