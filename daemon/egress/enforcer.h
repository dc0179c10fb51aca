// The kernel side within the daemon: puts the rules of [egress] in force and hands the hooks'
// events on.
//
// It starts with the first rule of [egress]. If the kernel cannot enforce them, the daemon goes on
// guarding the other direction, and the log and the status say so.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <systemd/sd-event.h>

#include "daemon/base/clock.h"
#include "daemon/base/loop.h"
#include "daemon/bpf/load/loader.h"
#include "daemon/egress/apply.h"
#include "daemon/egress/asked_names.h"
#include "daemon/egress/explain.h"
#include "daemon/egress/job_log.h"
#include "daemon/egress/looker.h"
#include "daemon/egress/policy_builder.h"

namespace egress {

class Enforcer {
  public:
    struct Options {
        std::string cgroup; ///< directory to attach at
        std::string pins;
        bool monitor = false;
    };
    struct Status {
        enum class State { off, starting, in_force, failed, detached };
        State state = State::off;
        std::string last_error;
        bpf::InForce kernel; ///< what decides there
        bool own = false;    ///< this daemon put it there; the next two describe it
        std::size_t rules = 0;
        std::size_t prefixes = 0;
        PolicyBuilder::Resolvers resolvers; ///< of this daemon's rules
        bool reads_names = false;           ///< the rules in force go by what resolvers answer
        Seconds grace = 0;                  ///< that a grant outlives its answer
        std::size_t grants = 0;             ///< in force
        std::size_t names = 0;              ///< of grants whose text is known
        std::vector<bpf::HiddenAnswers> hidden;
        Looker::Counters lookups;
        std::uint64_t events = 0; ///< read by this daemon
        std::uint64_t missed = 0; ///< lost before this daemon read
        bpf::KernelCounters counters;
        std::vector<bpf::Coverage> coverage;
        bool knows_sender = false; ///< the packet hook knows the sending process
        std::size_t runs = 0;      ///< of egressctl run, that go on
        /// Whether the hooks see what a run connects to by AF_UNIX.
        bool covers_sockets() const;
    };
    /// `domain`: by which name the rule matched; empty: by none, or it is not known.
    using OnEvent = std::function<void(const egress_event&, const policy::EgressRule* rule,
                                       const std::string& domain)>;
    using OnDetach = std::function<void(const Result<std::size_t>&)>; ///< pins that were removed

    Enforcer(sd_event* event, Reaper& reaper, const Clock& clock, Options options,
             OnEvent on_event);
    ~Enforcer();

    /// How long a request waits for its rules; a slow machine takes long to verify the programs.
    static constexpr Seconds patience = 60;

    /// Puts the [egress] part of the rules in force. On failure the previous rules stay.
    void apply(ApplyRequest request);
    /// Instead of the first apply(): the kernel keeps what it has. Not in force: it has nothing.
    ApplyOutcome hold(const std::string& why);
    /// Removes everything from the kernel; the next apply() starts again. Calls `done` once, now or
    /// when the policy under way is finished.
    void detach(OnDetach done);
    /// Finds out which rule decides and why. Calls `done` once, now or later.
    using OnAnswer = std::function<void(const Reply& json)>;
    void explain(Question question, OnAnswer done);
    /// Begins a run of egressctl: the process that asks, and all that it starts, with rules of its
    /// own in front. Calls `done` once, now or later, with {"run": id}.
    void begin_job(JobRequest request, OnAnswer done);
    /// Whether the process is in a run; unknown while nobody can tell.
    bpf::JobOf job_of(std::uint32_t pid) const;
    /// What a run was refused up to now; nullopt: there is none of that user with that number.
    std::optional<nlohmann::json> job_report(std::uint32_t id, std::uint32_t uid);
    /// Marks a process that tests the hooks; see Loader::mark_canary().
    Reply mark_canary(std::uint32_t pid, std::uint64_t start, bool only_note);
    std::optional<std::uint64_t> unmark_canary();
    /// Whether the event is of a process that tests the hooks, or prepares to.
    bool is_canary(const egress_event& event) const;
    void tick();
    /// Reads all events so far, with all repeats; for the end.
    void finish();

    Status status() const;
    /// Lines of the last applied rules that cut off what a root shell needs.
    const std::vector<policy::Diagnostic>& lockouts() const { return lockouts_; }
    /// Whether any policy of [egress] is in force, of whichever attempt or daemon.
    bool in_force() const { return in_kernel().something(); }
    static std::string_view text(Status::State state);
    /// The state as one line, for the service manager.
    static std::string line(const Status& status);
    const Options& options() const { return options_; }
    const bpf::Loader* loader() const { return loader_; }

  private:
    Result<> start();
    Result<> attend();
    /// What decides there, read from the same place as the hooks read it.
    bpf::InForce in_kernel() const;
    void started(const Result<>& result);
    void installed(const PolicyBuilder::Outcome& outcome);
    void note_in_force(const PolicyBuilder::Outcome& outcome);
    void report_losses();
    void report_troubles();
    void fail_with(const Error& error);
    void take_outcomes();
    std::size_t take_events();
    void take_told();
    void look_up(const PolicyBuilder::Outcome& outcome);
    std::string domain_of(const egress_event& event, const policy::EgressRule* rule);
    void take_all_events();
    void update_jobs();
    void settle(std::uint64_t number, const ApplyOutcome& outcome);
    void settle_all(const ApplyOutcome& outcome);
    void give_up_waiting();
    void unload();

    sd_event* event_;
    const Clock& clock_;
    Options options_;
    OnEvent on_event_;
    AskedNames asked_names_; ///< before the builder, whose thread reads it
    std::unique_ptr<PolicyBuilder> builder_;
    bpf::Loader* loader_ = nullptr; ///< the builder's; null until it is loaded
    Source outcome_source_;
    Source ring_source_;
    Source told_source_;
    /// The rules by generation: queued events may be of the previous one.
    std::vector<std::pair<std::uint64_t, std::vector<policy::EgressRule>>> rules_;
    struct Waiting {
        std::uint64_t number; ///< of the policy
        OnApplied done;
        Moment until;
    };
    std::vector<Waiting> waiting_;                           ///< the oldest first
    std::vector<std::pair<std::uint64_t, OnAnswer>> asking_; ///< by the number of the question
    JobLog jobs_;
    std::vector<OnDetach> detaching_;   ///< callers that wait for it; empty: it is not under way
    std::optional<ApplyRequest> after_; ///< applied once the detach is done
    std::vector<policy::Diagnostic> lockouts_;
    Looker looker_;
    std::uint32_t canary_ = 0; ///< tgid; 0: none
    Moment canary_until_ = 0;
    std::array<std::uint64_t, EGRESS_LOSSES> reported_{}; ///< of the kernel's losses, in the log
    Status status_;
};

} // namespace egress
