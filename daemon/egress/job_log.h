// What the runs of egressctl run were refused, for whoever asks at their end.
//
// Bounded: the runs that go on and some that are over, each with a number of destinations; what
// finds no room is counted. The kernel counts refusals, too, so that their number is exact even if
// events were lost.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "daemon/base/clock.h"
#include "daemon/bpf/load/jobs.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress {

/// Whether an event's rule is one of its job's.
inline bool is_of_job(std::uint32_t rule) {
    return rule >= EGRESS_RULE_OF_JOB && rule < 2 * EGRESS_RULE_OF_JOB;
}

class JobLog {
  public:
    static constexpr std::size_t most_over = 64; ///< that are kept
    static constexpr std::size_t most_destinations = 256;

    /// A run has begun. `rules` are those of its policy.
    void begin(std::uint32_t id, std::uint32_t uid, bool learns,
               std::vector<policy::EgressRule> rules);
    /// An event of a process in a run. `name`: by which it found the address; empty: unknown.
    void note(const egress_event& event, const std::string& name);
    /// The rule of a run that an event names; null: unknown.
    const policy::EgressRule* rule(const egress_event& event) const;
    /// Takes over what the kernel counts; call it before Jobs::tidy().
    void update(const bpf::Jobs& jobs);

    /// What a run was refused; nullopt: there is no such run, or it is another user's.
    std::optional<nlohmann::json> report(std::uint32_t id, std::uint32_t uid) const;

  private:
    struct Destination {
        egress_flow flow{};
        std::uint8_t hook = 0;
        std::string name;
        std::string program;
        std::string rule;
        std::uint64_t count = 0;
    };
    struct Run {
        std::uint32_t id = 0;
        std::uint32_t uid = 0;
        bool learns = false;
        std::uint64_t processes = 1;
        std::uint64_t refused = 0;
        std::uint64_t more = 0; ///< refusals of destinations that found no room
        std::vector<policy::EgressRule> rules;
        std::vector<Destination> destinations;
    };
    Run* find(std::uint32_t id);
    const Run* find(std::uint32_t id) const;
    Run& add(std::uint32_t id, std::uint32_t uid, bool learns);

    std::list<Run> runs_; ///< the oldest first
};

} // namespace egress
