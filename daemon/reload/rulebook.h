// The rules as a whole: reads them from the files, tries them out, and puts them in force.
//
// New rules replace all sections or none. [egress] takes longer, because a thread of its own loads
// it into the kernel: the other sections follow once it is in force. If the kernel side is
// unavailable, the other sections are applied without [egress]; if only the thread is, nothing is
// applied.
//
// A trial puts other rules in force for a time. Their text and end are stored in the database
// first, so that a daemon that starts meanwhile continues the trial, and one that starts later does
// not. If it ends unconfirmed, the previous rules return as they were, not as their files are by
// then.
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

/// The rules in force, and the last attempt to replace them.
struct RulesState {
    std::vector<std::string> files;
    std::int64_t loaded = 0; ///< wall-clock seconds
    std::string last_error;  ///< of the last reload; empty: it succeeded
};

/// Rules in force for a time: `text` instead of the content of the first rules file.
struct Trial {
    std::string name; ///< the name of the text in messages
    std::string text;
    Moment until = never;
};

class Rulebook {
  public:
    static constexpr Seconds most_seconds = 24 * 60 * 60; ///< longest trial

    /// The result for new rules.
    struct Report {
        bool parsed = false; ///< no errors among the diagnostics
        std::vector<policy::Diagnostic> diagnostics;
        bool misplaced = false; ///< the request does not fit: there is a trial, or there is none
        /// Whether all rules are in force; only attempted if parsed. The diagnostics include the
        /// lines of a lockout.
        ApplyOutcome force;
    };
    using Done = std::function<void(const Report&)>;

    Rulebook(const Clock& clock, Ledger& ledger, Enforcer& enforcer, Keeper& keeper,
             RulesReader& reader, std::string conf);

    /// How the ledger's initial rules came to be; see kept_rules.h.
    struct Origin {
        std::string error;        ///< of the files, where kept rules stand in for them; else empty
        bool hold_egress = false; ///< [egress] of before stays in the kernel
    };
    /// Puts in force the ledger's initial rules, or those of the current trial.
    void begin(OnApplied done, const Origin& origin);
    // Each of the following calls `done` once: now, or within Enforcer::patience and a commit after
    // the files are read.
    /// Applies the files' rules, or keeps the old ones. With an asker, reload() and try_out()
    /// refuse lockouts.
    void reload(Done done, std::optional<bpf::Asker> asker = {});
    /// Starts a trial that ends at `trial.until`.
    void try_out(Trial trial, Done done, std::optional<bpf::Asker> asker = {});
    /// Makes the trial's rules permanent; the file has them by now.
    void confirm(Done done);
    /// Ends the trial at once.
    void go_back(Done done);
    /// Call once a second.
    void tick();

    const RulesState& state() const { return state_; }
    const std::optional<Trial>& trial() const { return trial_; }
    std::size_t reading() const { return reader_.pending(); } ///< reads in progress
    std::string file() const;                                 ///< absolute path of the rules file
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
    void begin_without_trial(OnApplied done, const Origin& origin);
    void keep_rules();
    void forget_trial();
    void end_trial(const char* why, OnApplied done);
    std::optional<Trial> trial_that_is_on() const;
    std::string busy() const;

    const Clock& clock_;
    Ledger& ledger_;
    Enforcer& enforcer_;
    Keeper& keeper_;
    RulesReader& reader_;
    std::string conf_;
    RulesState state_;
    std::optional<Trial> trial_;
    OnApplied overtaken_;      ///< the start's callback if the trial ended before it
    bool ending_ = false;      ///< the previous rules are being restored
    std::uint64_t trials_ = 0; ///< started so far
    policy::Policy before_;    ///< the rules to restore after a trial
};

} // namespace egress
