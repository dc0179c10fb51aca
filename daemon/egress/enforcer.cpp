#include "daemon/egress/enforcer.h"

#include <algorithm>
#include <array>

#include <sys/epoll.h>

#include "daemon/base/boot.h"
#include "daemon/base/log.h"
#include "daemon/base/memory.h"
#include "daemon/base/week.h"
#include "daemon/bpf/names.h"
#include "daemon/bpf/pins.h"
#include "daemon/bpf/tables/host.h"

namespace egress {

namespace {

constexpr std::size_t events_per_turn = 512;
constexpr std::size_t told_per_turn = 2048; // more than the ring holds

const ApplyOutcome superseded{Applied::superseded, "superseded by other rules"};

/// What the policy builder needs of the rules.
policy::Policy part_of(policy::Policy&& policy) {
    policy::Policy part;
    part.egress = std::move(policy.egress);
    part.lists = std::move(policy.lists);
    part.dns = std::move(policy.dns);
    return part;
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

Enforcer::Enforcer(sd_event* event, Reaper& reaper, const Clock& clock, Options options,
                   OnEvent on_event)
    : event_(event), clock_(clock), options_(std::move(options)), on_event_(std::move(on_event)),
      looker_(event, reaper, clock) {}

Enforcer::~Enforcer() = default;

/// The builder loads the kernel side on its thread; started() follows.
Result<> Enforcer::start() {
    auto builder = PolicyBuilder::start({options_.cgroup, options_.pins, options_.monitor}, clock_);
    if (!builder) {
        return std::unexpected(builder.error());
    }
    builder_ = std::move(*builder);
    auto source =
        watch(event_, builder_->fd(), EPOLLIN, [this](std::uint32_t) { take_outcomes(); });
    if (!source) {
        return std::unexpected(source.error());
    }
    outcome_source_ = std::move(*source);
    return {};
}

/// Takes over the loader that the builder has started.
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
    status_.missed = loader_->unreported_losses();
    loader_->note_reported_losses(status_.missed);
    const auto counters = loader_->counters();
    std::ranges::copy(counters.losses, reported_.begin());
    if (counters.sequence > 0) {
        log::write(
            status_.missed > 0 ? log::Level::warning : log::Level::info, "egress-missed",
            fmt::format("the kernel side went on by itself: {} events missed while no daemon "
                        "read them, {} wait to be read",
                        status_.missed, counters.waiting));
    }
    auto source =
        watch(event_, loader_->event_fd(), EPOLLIN, [this](std::uint32_t) { take_events(); });
    if (!source) {
        return std::unexpected(source.error());
    }
    ring_source_ = std::move(*source);
    auto told = watch(event_, loader_->told_fd(), EPOLLIN, [this](std::uint32_t) { take_told(); });
    if (!told) {
        return std::unexpected(told.error());
    }
    told_source_ = std::move(*told);
    trim_memory(); // loading took more than all that follows
    return {};
}

void Enforcer::apply(ApplyRequest request) {
    const auto finish = [&request](const ApplyOutcome& outcome) {
        if (request.done) {
            request.done(outcome);
        }
    };
    if (!detaching_.empty()) {
        const auto before = std::exchange(after_, std::move(request));
        if (before && before->done) {
            before->done(superseded);
        }
        return;
    }
    if (!builder_ && request.policy.egress.empty() && !bpf::has_pins(options_.pins)) {
        return finish({});
    }
    if (!builder_) {
        const auto before = std::exchange(status_.state, Status::State::starting);
        if (const auto started = start(); !started) {
            builder_.reset();
            if (request.first || in_force()) {
                fail_with(started.error());
            } else {
                status_.state = before; // the rules that stay are in force as they were
            }
            return finish({Applied::unavailable, started.error().text});
        }
    }
    // Rules under way may come into force before: their own caller gets that answer.
    const auto number = builder_->apply(part_of(std::move(request.policy)), request.asker);
    if (request.done) {
        waiting_.push_back({number, std::move(request.done), after(clock_.now(), patience)});
    }
}

void Enforcer::explain(Question question, OnAnswer done) {
    if (loader_ == nullptr || !detaching_.empty()) {
        done({Answered::not_in_force, "no rules of [egress] are in force"});
        return;
    }
    take_told();
    auto answer = [question = std::move(question), &loader = *loader_,
                   answers = KnownAnswers{asked_names_, status_.resolvers.all}](
                      const policy::Policy& policy, const bpf::Tables& tables) {
        return egress::explain(question, loader, policy, tables, answers);
    };
    if (const auto number = builder_->ask(std::move(answer))) {
        asking_.emplace_back(*number, std::move(done));
    } else {
        done({Answered::busy, "too many questions wait for their answer"});
    }
}

Reply Enforcer::mark_canary(std::uint32_t pid, std::uint64_t start, bool only_note) {
    if (!loader_ || !detaching_.empty() || loader_->generation() == 0) {
        return {Answered::not_in_force,
                in_force() ? "the rules of [egress] in force are those of an earlier start, and "
                             "egressd has no hold of the hooks: " +
                                 status_.last_error
                           : "no rules of [egress] are in force"};
    }
    const auto marked = loader_->mark_canary(pid, start, only_note);
    if (marked) {
        // Bounded: the kernel gives the number to another process one day.
        canary_ = loader_->settings().canary;
        canary_until_ = after(clock_.now(), EGRESS_CANARY_TIME / 1'000'000'000 + 1);
    }
    return marked;
}

std::optional<std::uint64_t> Enforcer::unmark_canary() {
    // `canary_` stays for its short time: the ring may still hold events of it.
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
    settle_all({Applied::superseded, "detached"});
    for (const auto& [number, done] : std::exchange(asking_, {})) {
        done({Answered::not_in_force, "no rules of [egress] are in force"});
    }
    outcome_source_.reset();
    ring_source_.reset();
    told_source_.reset();
    loader_ = nullptr;
    builder_.reset();
    rules_.clear();
    looker_.follow({});
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
    if (auto next = std::exchange(after_, std::nullopt)) {
        apply(std::move(*next));
    }
}

ApplyOutcome Enforcer::hold(const std::string& why) {
    fail_with({why, 0});
    return in_force() ? ApplyOutcome{} : ApplyOutcome{Applied::failed, why};
}

void Enforcer::fail_with(const Error& error) {
    status_.state = in_force() ? Status::State::in_force : Status::State::failed;
    status_.last_error = error.text;
    log::error("egress", "the rules of [egress] are {}: {}",
               in_force() ? "the ones before" : "NOT ENFORCED", error.text);
}

/// What became of the policy with that number; those before it were never begun.
void Enforcer::settle(std::uint64_t number, const ApplyOutcome& outcome) {
    std::vector<Waiting> settled;
    while (!waiting_.empty() && waiting_.front().number <= number) {
        settled.push_back(std::move(waiting_.front()));
        waiting_.erase(waiting_.begin());
    }
    for (const auto& each : settled) { // each may apply() anew
        each.done(each.number == number ? outcome : superseded);
    }
}

void Enforcer::settle_all(const ApplyOutcome& outcome) {
    for (const auto& each : std::exchange(waiting_, {})) {
        each.done(outcome);
    }
}

void Enforcer::give_up_waiting() {
    while (!waiting_.empty() && clock_.now() >= waiting_.front().until) {
        log::warning("egress",
                     "the rules of [egress] are not in force after {} seconds; that goes on",
                     patience);
        const auto late = std::move(waiting_.front());
        waiting_.erase(waiting_.begin());
        late.done({Applied::still_pending,
                   fmt::format("the rules of [egress] are not in force after {} seconds; "
                               "\"egressctl status\" tells when they are",
                               patience)});
    }
}

void Enforcer::take_outcomes() {
    if (!detaching_.empty() && builder_->ended()) {
        unload();
        return;
    }
    while (const auto outcome = builder_->take()) {
        if (outcome->job != 0) {
            const auto job = loader_->jobs().find(outcome->job);
            jobs_.begin(outcome->job, job ? job->uid : 0,
                        job && (job->flags & EGRESS_JOB_LEARNS) != 0, outcome->rules);
        }
        if (outcome->answer) {
            const auto asked = std::ranges::find(asking_, outcome->number,
                                                 [](const auto& each) { return each.first; });
            const auto done = std::move(asked->second);
            asking_.erase(asked);
            done(outcome->job != 0 ? Reply{Answered::yes, fmt::format("{}", outcome->job)}
                                   : *outcome->answer);
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
    told_source_.reset();
    outcome_source_.reset();
    loader_ = nullptr;
    builder_.reset(); // the next apply() tries anew
    fail_with(attended.error());
    settle_all({Applied::failed, attended.error().text});
}

void Enforcer::installed(const PolicyBuilder::Outcome& outcome) {
    if (!outcome.again) {
        lockouts_ = outcome.lockouts;
    }
    for (const auto& lockout : outcome.lockouts) {
        log::warning("rules", "{}", lockout.message());
    }
    if (outcome.lockout) {
        // Not a failure: the caller gets the outcome.
        status_.state = in_force() ? Status::State::in_force : Status::State::off;
    } else if (!outcome.result) {
        fail_with(outcome.result.error());
    } else {
        status_.state = Status::State::in_force;
        status_.last_error = outcome.untidy;
        status_.prefixes = outcome.prefixes;
        status_.rules = outcome.rules.size();
        status_.resolvers = outcome.resolvers;
        note_in_force(outcome);
        look_up(outcome);
    }
    if (!outcome.again) {
        settle(outcome.number,
               outcome.result ? ApplyOutcome{}
                              : ApplyOutcome{outcome.lockout ? Applied::lockout : Applied::failed,
                                             outcome.result.error().text});
    }
}

void Enforcer::note_in_force(const PolicyBuilder::Outcome& outcome) {
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

/// Has the names of lines looked up, if they or the resolvers are others than before.
void Enforcer::look_up(const PolicyBuilder::Outcome& outcome) {
    const auto& resolvers = outcome.resolvers;
    Looker::Plan plan{Looker::names_of(outcome.rules, resolvers.listed), resolvers.all,
                      resolvers.grace, resolvers.refresh};
    if (!outcome.again || plan != looker_.plan()) {
        looker_.follow(std::move(plan));
    }
}

std::size_t Enforcer::take_events() {
    const auto read = loader_->read_events(events_per_turn, [this](const egress_event& event) {
        const auto rules = std::ranges::find(rules_, event.generation,
                                             [](const auto& entry) { return entry.first; });
        const bool known = rules != rules_.end() && event.rule < rules->second.size();
        const auto* const rule = known                   ? &rules->second[event.rule]
                                 : is_of_job(event.rule) ? jobs_.rule(event)
                                                         : nullptr;
        on_event_(event, rule, domain_of(event, rule));
        if (event.job != 0) {
            take_told();
            const auto name =
                asked_names_.find(*Address::from_bytes(event.flow.address), EGRESS_ANY_NAME);
            jobs_.note(event, event.hook == EGRESS_HOOK_UNIX ? loader_->jobs().socket_of(event.flow)
                              : name != nullptr              ? *name
                                                             : std::string());
        }
    });
    status_.events += read;
    return read;
}

void Enforcer::take_told() {
    loader_->read_told(told_per_turn, [this](const egress_told& told) {
        if (const auto taken = asked_names_.take(told)) {
            looker_.note(*taken->name, taken->until);
        }
    });
}

/// The hooks told the name before the event, so that it is in the ring if not taken already.
std::string Enforcer::domain_of(const egress_event& event, const policy::EgressRule* rule) {
    using Kind = policy::Destination::Kind;
    const auto kind = rule != nullptr ? rule->destination.kind : Kind::any;
    const bool by_name = event.rule == EGRESS_UNLISTED ||
                         (rule != nullptr && (is_name(rule->destination) || kind == Kind::list ||
                                              rule->options.resolved));
    if (!by_name || event.named == 0) {
        return "";
    }
    const auto address = *Address::from_bytes(event.flow.address);
    auto name = asked_names_.find(address, event.named);
    if (name == nullptr) {
        take_told();
        name = asked_names_.find(address, event.named);
    }
    return name != nullptr ? *name : kind == Kind::name ? rule->destination.text : "";
}

/// Reads the ring, then what did not fit into it; bounded, since more may come all the time.
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
        report_losses();
        report_troubles();
        take_told();
        asked_names_.forget(boot_nanoseconds());
        update_jobs();
        looker_.tick();
        loader_->tick();
    }
    give_up_waiting();
}

void Enforcer::report_losses() {
    if (const auto lost = loader_->unreported_losses(); lost > 0) {
        loader_->note_reported_losses(lost);
        log::warning("egress-lost", "{} events lost: they came faster than they were read", lost);
    }
}

/// Logs what the kernel side could not hold or look up since the last time.
void Enforcer::report_troubles() {
    struct Trouble {
        egress_loss reason;
        const char* text;
    };
    constexpr std::array<Trouble, 6> troubles = {{
        {EGRESS_LOST_PROCESS, "processes found no room in the kernel's table"},
        {EGRESS_LOST_BROKEN, "flows were refused: the kernel's tables do not hang together"},
        {EGRESS_LOST_SOCKET, "sockets were refused: the kernel has no memory to keep their owners"},
        {EGRESS_LOST_SUSPECT,
         "flows of processes or cgroups that the kernel side does not know were "
         "judged by every refusal that could be meant for them"},
        {EGRESS_LOST_FOLD,
         "repeats became events of their own: the kernel's table of repeats is full"},
        {EGRESS_LOST_ANSWER,
         "peers of UDP services were forgotten early, and answers to them judged: "
         "a user's part of the kernel's table of peers is full"},
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
        const auto settings = loader_->settings();
        out.knows_sender = settings.knows_sender != 0;
        out.reads_names = settings.reads_names != 0;
        out.grace = static_cast<Seconds>(settings.dns_grace / 1'000'000'000);
        out.grants = loader_->grants().in_force(boot_nanoseconds());
        out.names = asked_names_.size();
        out.hidden = builder_->hidden();
        loader_->jobs().each(
            [&out](const egress_job& job) { out.runs += job.processes > 0 ? 1 : 0; });
        out.lookups = looker_.counters();
    }
    return out;
}

} // namespace egress
