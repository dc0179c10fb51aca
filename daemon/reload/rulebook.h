// The rules as a whole: read from the files, tried out, put in force, or not.
//
// New rules replace all sections or none. [egress] takes its time, as the kernel is filled with it
// on a thread of its own: the other sections follow when it is in force. If the kernel side is
// unavailable, the other sections are applied without [egress]; if only a thread is, nothing is.
//
// A trial puts other rules in force for a time. Its text and its end are in the database before, so
// that a daemon which starts meanwhile goes on with it, and one which starts later does not. When
// it ends unconfirmed, the rules before come back as they were, not as their files are by then.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/count/keeper.h"
#include "daemon/count/ledger.h"
#include "daemon/egress/enforcer.h"
#include "daemon/policy/parser.h"
#include "daemon/reload/reader.h"

namespace egress {

/// What is known of the rules in force and of the last try to replace them.
struct RulesState {
    std::vector<std::string> files;
    std::int64_t loaded = 0; ///< wall-clock seconds
    std::string last_error;  ///< of the last reload; empty where it went well
};

/// Rules that are in force for a time: `text` in the place of what the first rules file holds.
struct Trial {
    std::string name; ///< what messages call the text
    std::string text;
    Moment until = never;
};

class Rulebook {
  public:
    static constexpr Seconds most_seconds = 24 * 60 * 60; ///< of a trial

    /// What became of new rules.
    struct Report {
        bool parsed = false; ///< no errors among the diagnostics
        std::vector<policy::Diagnostic> diagnostics;
        bool misplaced = false; ///< asked for what does not fit to whether there is a trial
        /// Whether all is in force; not tried where not parsed. A lockout's lines are among the
        /// diagnostics.
        ApplyOutcome force;
    };
    using Done = std::function<void(const Report&)>;

    Rulebook(const Clock& clock, Ledger& ledger, Enforcer& enforcer, Keeper& keeper, Reader& reader,
             std::string conf);

    /// Puts the rules in force with which the ledger began, or those of the trial that is on.
    void begin(OnApplied done);
    // Each calls `done` once, now or when the files are read, within Enforcer::patience and a
    // commit from then on.
    /// New rules from the files, or the old ones. With an asker, the next two refuse lockouts.
    void reload(Done done, std::optional<bpf::Asker> asker = {});
    /// `trial.until` says when it ends.
    void try_out(Trial trial, Done done, std::optional<bpf::Asker> asker = {});
    /// The trial's rules are those of the file by now: they stay.
    void confirm(Done done);
    /// Ends the trial at once.
    void go_back(Done done);
    /// Once a second.
    void tick();

    const RulesState& state() const { return state_; }
    const std::optional<Trial>& trial() const { return trial_; }
    std::size_t reading() const { return reader_.pending(); } ///< new rules on their way
    std::string file() const;                                 ///< of the rules, as an absolute path
    /// "conf" -> "conf.d".
    static std::string directory_of(const std::string& conf) { return conf + ".d"; }

  private:
    void put_in_force(policy::Policy policy, OnApplied done, std::optional<bpf::Asker> asker = {});
    void take(policy::Parsed parsed, Done done, std::optional<bpf::Asker> asker);
    void take_trial(Trial trial, policy::Parsed parsed, Done done, std::optional<bpf::Asker> asker);
    void note(const Report& report);
    void add_lockouts(Report& report) const;
    void start_trial(policy::Policy policy, Report report, Done done,
                     std::optional<bpf::Asker> asker);
    void forget_trial();
    void end_trial(const char* why, OnApplied done);
    std::optional<Trial> trial_that_is_on() const;
    std::string busy() const;

    const Clock& clock_;
    Ledger& ledger_;
    Enforcer& enforcer_;
    Keeper& keeper_;
    Reader& reader_;
    std::string conf_;
    RulesState state_;
    std::optional<Trial> trial_;
    OnApplied overtaken_;      ///< who waits for the start, when the trial ended before it
    bool ending_ = false;      ///< the rules before are on their way back
    std::uint64_t trials_ = 0; ///< begun so far
    policy::Policy before_;    ///< the rules that come back after a trial
};

} // namespace egress
