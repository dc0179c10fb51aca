#include "daemon/egress/enforcer.h"

#include <algorithm>
#include <array>

#include <sys/epoll.h>

#include "daemon/base/log.h"
#include "daemon/base/memory.h"
#include "daemon/base/week.h"
#include "daemon/bpf/pins.h"
#include "daemon/bpf/tables/host.h"

namespace egress {

namespace {

constexpr std::size_t events_per_turn = 512;

Result<> overtaken() {
    return fail("overtaken by other rules", ECANCELED);
}

} // namespace

std::string_view Enforcer::text(Status::State state) {
    switch (state) {
    case Status::State::off:
        return "off";
    case Status::State::starting:
        return "starting";
    case Status::State::in_force:
        return "in force";
    case Status::State::detached:
        return "detached";
    case Status::State::failed:
        break;
    }
    return "not enforced";
}

std::string Enforcer::line(const Status& status) {
    const auto& kernel = status.kernel;
    const auto what = status.own ? fmt::format("{} rules of [egress]", status.rules)
                                 : std::string("rules of [egress]");
    const auto since = kernel.generation != 0 ? fmt::format("generation {}", kernel.generation)
                                              : std::string("another version's");
    const auto error = status.last_error.empty() ? "" : "; " + escape(status.last_error);
    switch (status.state) {
    case Status::State::off:
        return "no rules of [egress]";
    case Status::State::starting:
        return "rules of [egress] on their way into the kernel" +
               (kernel.something() ? fmt::format("; until then those of before ({})", since) : "");
    case Status::State::detached:
        return "NOT ENFORCED: [egress] is detached until the next reload";
    case Status::State::failed:
        return "NOT ENFORCED: rules of [egress]" + error;
    case Status::State::in_force:
        break;
    }
    const auto gone = std::ranges::count_if(
        status.coverage, [](const auto& hook) { return hook.judges && !hook.attached; });
    return fmt::format("{}{} {}, {}{}{}", kernel.monitor ? "NOT ENFORCED: " : "", what,
                       kernel.monitor ? "only monitored" : "in force", since,
                       gone > 0 ? fmt::format("; {} hooks NOT ATTACHED", gone) : "", error);
}

Enforcer::Enforcer(sd_event* event, const Clock& clock, Options options, OnEvent on_event)
    : event_(event), clock_(clock), options_(std::move(options)), on_event_(std::move(on_event)) {}

Enforcer::~Enforcer() = default;

/// The kernel half is loaded on the builder's thread; started() follows.
Result<> Enforcer::start() {
    auto builder = Builder::start({options_.cgroup, options_.pins, options_.monitor}, clock_);
    if (!builder) {
        return std::unexpected(builder.error());
    }
    builder_ = std::move(*builder);
    sd_event_source* raw = nullptr;
    if (sd_event_add_io(event_, &raw, builder_->fd(), EPOLLIN, on_outcome, this) < 0) {
        return fail("cannot watch the making of policies");
    }
    outcome_source_.reset(raw);
    return {};
}

/// Takes over what the builder has loaded.
Result<> Enforcer::attend() {
    loader_ = &builder_->loader();
    for (const auto& remark : loader_->remarks()) {
        log::debug("kernel", "{}", remark);
    }
    for (const auto& hook : loader_->coverage()) {
        if (!hook.attached) {
            log::warning("egress", "hook {} is not attached: {}", hook.hook, hook.why);
        }
    }
    status_.missed = loader_->untold_losses();
    loader_->told_losses(status_.missed);
    const auto counters = loader_->counters();
    std::ranges::copy(counters.losses, reported_.begin());
    if (counters.sequence > 0) {
        log::write(status_.missed > 0 ? log::Level::warning : log::Level::info, "egress-missed",
                   fmt::format("the kernel half went on by itself: {} events missed while nobody "
                               "read them, {} wait to be read",
                               status_.missed, counters.waiting));
    }
    sd_event_source* raw = nullptr;
    if (sd_event_add_io(event_, &raw, loader_->event_fd(), EPOLLIN, on_ring, this) < 0) {
        return fail("cannot watch the kernel's events");
    }
    ring_source_.reset(raw);
    trim_memory(); // loading took more than all that follows
    return {};
}

/// What the builder needs of a policy.
policy::Policy Enforcer::part_of(const policy::Policy& policy) {
    policy::Policy part;
    part.egress = policy.egress;
    part.lists = policy.lists;
    return part;
}

void Enforcer::apply(const policy::Policy& policy, OnForce done, std::optional<bpf::Asker> asker) {
    if (!detaching_.empty()) {
        after_ = part_of(policy);
        after_asker_ = asker;
        if (const auto before = std::exchange(after_done_, std::move(done))) {
            before(overtaken());
        }
        return;
    }
    const bool wanted = !policy.egress.empty();
    if (!builder_ && !wanted && !bpf::has_pins(options_.pins)) {
        if (done) {
            done({});
        }
        return;
    }
    if (!builder_) {
        status_.state = Status::State::starting;
        if (auto started = start(); !started) {
            builder_.reset();
            fail_with(started.error());
            if (done) {
                done(started);
            }
            return;
        }
    }
    // Those that are being made may come into force before: who waits for them is told then.
    const auto number = builder_->apply(part_of(policy), asker);
    if (done) {
        waiting_.push_back({number, std::move(done), after(clock_.now(), patience)});
    }
}

void Enforcer::explain(Question question, OnAnswer done) {
    if (loader_ == nullptr || !detaching_.empty()) {
        done(fail("no rules of [egress] are in force", ENOENT));
        return;
    }
    const auto look = [question = std::move(question),
                       &loader = *loader_](const policy::Policy& policy,
                                           const bpf::Tables& tables) -> Result<std::string> {
        const auto answer = egress::explain(question, loader, policy, tables);
        if (!answer) {
            return std::unexpected(answer.error());
        }
        return answer->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    };
    if (const auto number = builder_->ask(look)) {
        asking_.emplace_back(*number, std::move(done));
    } else {
        done(fail("too many questions wait for their answer", EBUSY));
    }
}

Result<> Enforcer::mark_canary(std::uint32_t pid, std::uint64_t start, bool only_note) {
    if (!loader_ || !detaching_.empty() || loader_->generation() == 0) {
        return fail(in_force()
                        ? "the rules of [egress] in force are those of an earlier start, and "
                          "egressd has no hold of the hooks: " +
                              status_.last_error
                        : "no rules of [egress] are in force",
                    ENOENT);
    }
    const auto marked = loader_->mark_canary(pid, start, only_note);
    if (marked) {
        // Bounded, as its number is another process' one day.
        canary_ = loader_->settings().canary;
        canary_until_ = after(clock_.now(), EGRESS_CANARY_TIME / 1'000'000'000 + 1);
    }
    return marked;
}

std::optional<std::uint64_t> Enforcer::unmark_canary() {
    // `canary_` stays for its short time: the ring may still have looks of it.
    return loader_ ? loader_->unmark_canary() : std::nullopt;
}

bool Enforcer::is_canary(const egress_event& event) const {
    return event.rule == EGRESS_CANARY ||
           (canary_ != 0 && (event.tgid == canary_ || event.ppid == canary_) &&
            clock_.now() < canary_until_);
}

void Enforcer::detach(OnDetach done) {
    detaching_.push_back(std::move(done));
    if (detaching_.size() > 1) {
        return;
    }
    if (builder_) {
        builder_->end(); // unload() follows when it has: a long list must not hold up the loop
    } else {
        unload();
    }
}

void Enforcer::unload() {
    take_all_events();
    settle_all(fail("detached"));
    for (const auto& [number, done] : std::exchange(asking_, {})) {
        done(fail("no rules of [egress] are in force", ENOENT));
    }
    outcome_source_.reset();
    ring_source_.reset();
    loader_ = nullptr;
    builder_.reset();
    rules_.clear();
    status_ = {};
    const auto removed = bpf::remove_pins(options_.pins);
    status_.state = removed      ? Status::State::detached
                    : in_force() ? Status::State::in_force
                                 : Status::State::failed;
    if (removed) {
        log::notice("egress",
                    "detached ({} pins removed): nothing of [egress] is enforced until the next "
                    "reload or restart",
                    *removed);
    } else {
        status_.last_error = removed.error().text;
        log::error("egress", "cannot detach: {}", removed.error().text);
    }
    for (const auto& done : std::exchange(detaching_, {})) {
        done(removed);
    }
    if (const auto policy = std::exchange(after_, std::nullopt)) {
        apply(*policy, std::exchange(after_done_, {}), after_asker_);
    }
}

void Enforcer::fail_with(const Error& error) {
    status_.state = in_force() ? Status::State::in_force : Status::State::failed;
    status_.last_error = error.text;
    log::error("egress", "the rules of [egress] are {}: {}",
               in_force() ? "the ones before" : "NOT ENFORCED", error.text);
}

/// What became of the policy with that number; those before it were never begun.
void Enforcer::settle(std::uint64_t number, const Result<>& result) {
    std::vector<Waiting> settled;
    while (!waiting_.empty() && waiting_.front().number <= number) {
        settled.push_back(std::move(waiting_.front()));
        waiting_.erase(waiting_.begin());
    }
    for (const auto& each : settled) { // each may apply() anew
        each.done(each.number == number ? result : overtaken());
    }
}

void Enforcer::settle_all(const Result<>& result) {
    for (const auto& each : std::exchange(waiting_, {})) {
        each.done(result);
    }
}

void Enforcer::give_up_waiting() {
    while (!waiting_.empty() && clock_.now() >= waiting_.front().until) {
        log::warning("egress",
                     "the rules of [egress] are not in force after {} seconds; that goes on",
                     patience);
        const auto late = std::move(waiting_.front());
        waiting_.erase(waiting_.begin());
        late.done(fail(fmt::format("the rules of [egress] are not in force after {} seconds; "
                                   "\"egressctl status\" tells when they are",
                                   patience),
                       ETIMEDOUT));
    }
}

void Enforcer::take_outcomes() {
    if (!detaching_.empty() && builder_->ended()) {
        unload();
        return;
    }
    while (const auto outcome = builder_->take()) {
        if (outcome->answer) {
            const auto asked = std::ranges::find(asking_, outcome->number,
                                                 [](const auto& each) { return each.first; });
            const auto done = std::move(asked->second);
            asking_.erase(asked);
            done(*outcome->answer);
            continue;
        }
        if (outcome->started) {
            started(outcome->result);
            if (!builder_) {
                return;
            }
        } else {
            installed(*outcome);
        }
    }
}

void Enforcer::started(const Result<>& result) {
    const auto attended = result ? attend() : result;
    if (attended) {
        return;
    }
    ring_source_.reset();
    outcome_source_.reset();
    loader_ = nullptr;
    builder_.reset(); // the next apply() tries anew
    fail_with(attended.error());
    settle_all(attended);
}

void Enforcer::installed(const Builder::Outcome& outcome) {
    if (!outcome.again) {
        own_goals_ = outcome.own_goals;
    }
    for (const auto& own_goal : outcome.own_goals) {
        log::warning("rules", "{}", own_goal.message());
    }
    if (!outcome.result && outcome.result.error().code == Builder::own_goal) {
        // Nothing has failed: whoever asked is told.
        status_.state = in_force() ? Status::State::in_force : Status::State::off;
    } else if (!outcome.result) {
        fail_with(outcome.result.error());
    } else {
        status_.state = Status::State::in_force;
        status_.last_error = outcome.untidy;
        status_.prefixes = outcome.prefixes;
        status_.rules = outcome.rules.size();
        note_in_force(outcome);
    }
    if (!outcome.again) {
        settle(outcome.number, outcome.result);
    }
}

void Enforcer::note_in_force(const Builder::Outcome& outcome) {
    const bool fresh = rules_.empty() || rules_.back().first != outcome.generation;
    if (fresh) {
        rules_.emplace_back(outcome.generation, outcome.rules);
        if (rules_.size() > EGRESS_SLOTS) {
            rules_.erase(rules_.begin());
        }
    }
    if (fresh || outcome.untidy.empty()) {
        log::info("egress", "{} rules of [egress] in force, generation {}", status_.rules,
                  outcome.generation);
    }
    if (!outcome.untidy.empty()) {
        log::warning("egress", "the rules before are not taken away yet: {}", outcome.untidy);
    }
}

std::size_t Enforcer::take_events() {
    const auto read = loader_->read_events(events_per_turn, [this](const egress_event& event) {
        const auto rules = std::ranges::find(rules_, event.generation,
                                             [](const auto& entry) { return entry.first; });
        const bool known = rules != rules_.end() && event.rule < rules->second.size();
        on_event_(event, known ? &rules->second[event.rule] : nullptr);
    });
    status_.events += read;
    return read;
}

/// What the ring holds, then what it had no room for; bounded, as there may always be more.
void Enforcer::take_all_events() {
    constexpr int most_rounds = 8;
    constexpr int most_turns = 16;
    std::size_t taken = 1;
    for (int round = 0; loader_ != nullptr && taken > 0 && round < most_rounds; ++round) {
        [[maybe_unused]] const auto unfolded = loader_->unfold(true);
        taken = 0;
        for (int turn = 0; turn < most_turns; ++turn) {
            const auto now = take_events();
            taken += now;
            if (now < events_per_turn) {
                break;
            }
        }
    }
}

void Enforcer::finish() {
    if (in_force() && detaching_.empty()) {
        take_all_events();
    }
}

void Enforcer::tick() {
    if (loader_ != nullptr) {
        loader_->set_week_at_boot(week_at_boot(clock_));
        tell_losses();
        report_troubles();
        loader_->tick();
    }
    give_up_waiting();
}

void Enforcer::tell_losses() {
    if (const auto lost = loader_->untold_losses(); lost > 0) {
        loader_->told_losses(lost);
        log::warning("egress-lost", "{} events lost: they came faster than they were read", lost);
    }
}

/// What the kernel half could not hold or look up, since the daemon said so last.
void Enforcer::report_troubles() {
    struct Trouble {
        egress_loss reason;
        const char* text;
    };
    constexpr std::array<Trouble, 5> troubles = {{
        {EGRESS_LOST_PROCESS, "processes found no room in the kernel's table"},
        {EGRESS_LOST_BROKEN, "flows were refused: the kernel's tables do not hang together"},
        {EGRESS_LOST_SOCKET, "sockets were refused: the kernel has no memory to keep their owners"},
        {EGRESS_LOST_SUSPECT,
         "flows of processes or cgroups that the kernel half does not know were "
         "judged by every refusal that could be meant for them"},
        {EGRESS_LOST_FOLD,
         "repeats became events of their own: the kernel's table of repeats is full"},
    }};
    const auto counters = loader_->counters();
    for (const auto& [reason, text] : troubles) {
        const auto more = counters.losses[reason] - reported_[reason];
        if (more > 0) {
            reported_[reason] = counters.losses[reason];
            log::warning("egress-trouble", "{} {}", more, text);
        }
    }
}

bpf::InForce Enforcer::in_kernel() const {
    return loader_ != nullptr ? loader_->in_force() : bpf::pinned_in_force(options_.pins);
}

Enforcer::Status Enforcer::status() const {
    Status out = status_;
    out.kernel = in_kernel();
    out.own = !rules_.empty() && rules_.back().first == out.kernel.generation;
    if (loader_ != nullptr) {
        out.counters = loader_->counters();
        out.coverage = loader_->coverage();
        const auto judges = [](const auto& hook) { return hook.judges && hook.attached; };
        if (out.state == Status::State::in_force && std::ranges::none_of(out.coverage, judges)) {
            out.state = Status::State::failed;
            out.last_error = "no hook is attached any more; restart egressd to attach them";
        }
        out.knows_sender = loader_->settings().knows_sender != 0;
    }
    return out;
}

int Enforcer::on_outcome(sd_event_source*, int, std::uint32_t, void* self) {
    static_cast<Enforcer*>(self)->take_outcomes();
    return 0;
}

int Enforcer::on_ring(sd_event_source*, int, std::uint32_t, void* self) {
    static_cast<Enforcer*>(self)->take_events();
    return 0;
}

} // namespace egress
