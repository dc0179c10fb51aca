// Loads the kernel side, builds policies and puts them in force, on a thread of its own: the kernel
// takes seconds to verify the programs, long lists take a second, and the paths and cgroups that
// rules name may lie on a disk that hangs.
//
// Once a second it takes inventory of what the rules name in the system (a replaced program, a new
// cgroup), and builds the policy again if that has changed. It also flushes folded repeats that no
// later event will report.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>

#include "daemon/base/clock.h"
#include "daemon/base/result.h"
#include "daemon/base/worker.h"
#include "daemon/bpf/load/loader.h"
#include "daemon/bpf/tables/hidden.h"
#include "daemon/bpf/tables/lockout.h"
#include "daemon/bpf/tables/world.h"
#include "daemon/egress/job.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/rules/rule.h"
#include "lib/fd.h"

namespace egress {

class PolicyBuilder {
  public:
    /// Whose answers count.
    struct Resolvers {
        std::vector<Endpoint> all;
        bool given = false; ///< by [dns]; else they are the system's
        Seconds grace = 0;
        bool refresh = false;
        bool listed = false; ///< "queries listed"
    };
    /// What became of the policy with that number.
    struct Outcome {
        std::uint64_t number = 0;
        Result<> result;
        std::uint64_t generation = 0;
        std::size_t prefixes = 0;    ///< entries of the address tables
        std::optional<Reply> answer; ///< to the question with that number
        std::uint32_t job = 0;       ///< begun, with `rules`; `answer` has what is to be told of it
        bool lockout = false;        ///< not installed, because of lockouts
        std::vector<policy::EgressRule> rules;    ///< those that were built
        std::vector<policy::Diagnostic> lockouts; ///< of those rules; see tables/lockout.h
        Resolvers resolvers;
        std::string untidy;   ///< why the previous policy cannot be removed; see tidy()
        bool again = false;   ///< built again because the system changed
        bool started = false; ///< `result` is of the loading; on an error nothing follows
    };

    /// The first outcome is that of the loading.
    static Result<std::unique_ptr<PolicyBuilder>> start(const bpf::LoaderOptions& options,
                                                        const Clock& clock);
    ~PolicyBuilder();

    /// Hands a policy over; returns its number. It replaces one that is not begun yet. With an
    /// asker, a policy with lockouts is not installed; without, they are only reported.
    std::uint64_t apply(policy::Policy policy, std::optional<bpf::Asker> asker = {});

    /// Answers a question about the policy in force; runs on the builder's thread.
    using Question = std::function<Reply(const policy::Policy&, const bpf::Tables&)>;
    /// The number of the outcome that will have the answer; nullopt: too many wait.
    std::optional<std::uint64_t> ask(Question question);

    /// Begins a job for a process, with rules in front of those in force. The number of the outcome
    /// that will tell; nullopt: too many wait.
    std::optional<std::uint64_t> begin_job(JobRequest request);

    /// Begins nothing more. After the work under way fd() is readable and ended() is true.
    void end();
    bool ended();

    /// What keeps answers from the rules in force, as of some seconds ago.
    std::vector<bpf::HiddenAnswers> hidden();

    int fd() const { return ready_.fd(); } ///< readable when there is an outcome
    std::optional<Outcome> take();
    /// Valid after the outcome of a successful loading was taken.
    bpf::Loader& loader() { return *loader_; }

  private:
    PolicyBuilder(const bpf::LoaderOptions& options, const Clock& clock);
    void run();
    bool load();
    void serve();
    bool wait(std::unique_lock<std::mutex>& lock);
    Outcome build(bool again);
    void tidy(Outcome& out);
    void tidy_again();
    void find_lockouts(const bpf::Tables& tables, Outcome& out) const;
    void answer(std::vector<std::pair<std::uint64_t, Question>> asked);
    Outcome begin(const JobRequest& request);
    void begin_all(const std::vector<std::pair<std::uint64_t, JobRequest>>& asked);
    void keep_ready();
    std::optional<bpf::Inventory> take_inventory(bool fresh);
    bpf::World world_of(const bpf::Inventory& inventory) const;
    Result<> approve(const policy::Policy& policy, const bpf::Inventory& inventory) const;
    void keep_running(bpf::Inventory& now, bool fresh) const;
    void post(Outcome&& outcome);
    void unfold();
    void look_for_hidden(bool fresh);

    const bpf::LoaderOptions options_;
    std::unique_ptr<bpf::Loader> loader_;
    Fd hold_; ///< on the pins
    const Clock& clock_;
    Bell ready_;
    std::mutex mutex_; // guards the next ten
    std::condition_variable changed_;
    std::optional<policy::Policy> next_;
    std::optional<bpf::Asker> next_asker_;
    std::vector<std::pair<std::uint64_t, Question>> asked_;
    std::vector<std::pair<std::uint64_t, JobRequest>> asked_jobs_;
    std::vector<Outcome> outcomes_;
    bool stop_ = false;
    bool ended_ = false;
    std::uint64_t number_ = 0;
    std::uint64_t questions_ = 0;
    std::vector<bpf::HiddenAnswers> hidden_;
    policy::Policy current_; // only the thread uses what follows
    std::uint64_t current_number_ = 0;
    std::optional<bpf::Asker> current_asker_;
    bpf::Inventory inventory_;
    policy::Policy in_force_; ///< the policy in the kernel, with the inventory of then
    bpf::Inventory in_force_inventory_;
    std::uint64_t generation_ = 0;  ///< 0: nothing yet
    std::optional<Outcome> untidy_; ///< of the policy in force, until the previous one is removed
    Moment hidden_at_ = 0;          ///< when to look for what keeps answers from the rules
    bool logged_ = false;           ///< the log says that repeats cannot be flushed
    bool blind_ = false;            ///< the log says that paths can't be resolved
    bool unready_ = false;          ///< the log says that no slot for a job can be had
    Worker worker_;
};

} // namespace egress
