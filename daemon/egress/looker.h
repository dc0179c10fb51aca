// Looks the exact names of lines up at the approved resolvers, in a child (look_up.h), so that
// their addresses are granted before any program asks: when rules come into force, when the
// resolvers change, and with "refresh yes" before the grants end.
//
// Names of lists are not looked up: there may be a million. The child's questions are judged by the
// rules, as any program's.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/child.h"
#include "daemon/base/clock.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress {

class Looker {
  public:
    struct Plan {
        std::vector<std::string> names;
        std::vector<Endpoint> resolvers;
        Seconds grace = 0;
        bool refresh = false;
        friend bool operator==(const Plan&, const Plan&) = default;
    };
    struct Counters {
        std::size_t names = 0;
        std::size_t answered = 0;
        std::size_t silent = 0;  ///< they are tried again
        std::size_t refused = 0; ///< by lines, until other rules are in force
    };
    static constexpr Seconds least_wait = 5;  ///< before a name is tried again
    static constexpr Seconds most_wait = 300; ///< doubled each time until then
    static constexpr Seconds empty_wait = 60; ///< "refresh yes": before a name without addresses is

    Looker(sd_event* event, Reaper& reaper, const Clock& clock)
        : event_(event), reaper_(reaper), clock_(clock) {}

    /// The names of the lines, each once; neither patterns nor those of lists. `listed`: only
    /// those for which "queries listed" lets any program ask.
    static std::vector<std::string> names_of(const std::vector<policy::EgressRule>& rules,
                                             bool listed);

    /// Names and resolvers from now on; all of them are asked for at the next tick().
    void follow(Plan plan);
    const Plan& plan() const { return plan_; }
    /// A resolver gave addresses for the name, good until then (boot clock, nanoseconds), to
    /// whichever program.
    void note(const std::string& name, std::uint64_t until);
    /// Call it once a second.
    void tick();
    Counters counters() const;

  private:
    enum class Outcome : std::uint8_t { unasked, asked, answered, silent, refused };
    struct Name {
        Outcome outcome = Outcome::unasked;
        Moment due = 0;
        Seconds wait = least_wait;
    };
    void ask(const std::vector<std::string>& names);
    void take(std::string_view line);
    void settle(Name& name, Outcome outcome);
    void finish(const std::string& why);
    Moment before_end(std::uint64_t until) const;

    sd_event* event_;
    Reaper& reaper_;
    const Clock& clock_;
    Plan plan_;
    std::map<std::string, Name, std::less<>> names_;
    std::unique_ptr<Child> child_;
    bool ended_ = false;  ///< the child has; it goes at the next tick
    bool warned_ = false; ///< of refusals, under this plan
};

} // namespace egress
