#include "daemon/egress/policy_builder.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/base/week.h"
#include "daemon/bpf/pins.h"
#include "daemon/bpf/tables/host.h"
#include "daemon/egress/run_sockets.h"

namespace egress {

namespace {

constexpr std::size_t most_asked = 64;
constexpr auto look_again = std::chrono::seconds(1);
constexpr Seconds hidden_every = 10;

/// Files of one path, with replaced ones that still run.
constexpr std::size_t most_files = 16;

std::vector<Endpoint> resolvers_for(const policy::Policy& policy, const bpf::Inventory& inventory) {
    return bpf::needs_answers(policy) ? bpf::resolvers_of(policy, inventory)
                                      : std::vector<Endpoint>{};
}

Seconds grace_of(const policy::Policy& policy) {
    return policy.dns.grace.value_or(policy::Dns::usual_grace);
}

} // namespace

PolicyBuilder::PolicyBuilder(const bpf::LoaderOptions& options, const Clock& clock)
    : options_(options), clock_(clock) {}

Result<std::unique_ptr<PolicyBuilder>> PolicyBuilder::start(const bpf::LoaderOptions& options,
                                                            const Clock& clock) {
    std::unique_ptr<PolicyBuilder> builder(new PolicyBuilder(options, clock));
    if (!builder->ready_) {
        return fail_errno("cannot make an event descriptor");
    }
    auto worker = Worker::start("egressd-policy", [raw = builder.get()] { raw->run(); });
    if (!worker) {
        return std::unexpected(worker.error());
    }
    builder->worker_ = std::move(*worker);
    return builder;
}

PolicyBuilder::~PolicyBuilder() {
    end();
    worker_.join();
}

std::optional<std::uint64_t> PolicyBuilder::ask(Question question) {
    const std::lock_guard lock(mutex_);
    if (asked_.size() >= most_asked) {
        return std::nullopt;
    }
    asked_.emplace_back(++questions_, std::move(question));
    changed_.notify_all();
    return questions_;
}

std::optional<std::uint64_t> PolicyBuilder::begin_job(JobRequest request) {
    const std::lock_guard lock(mutex_);
    if (asked_jobs_.size() >= most_asked) {
        return std::nullopt;
    }
    asked_jobs_.emplace_back(++questions_, std::move(request));
    changed_.notify_all();
    return questions_;
}

void PolicyBuilder::begin_all(const std::vector<std::pair<std::uint64_t, JobRequest>>& asked) {
    for (const auto& [number, request] : asked) {
        auto outcome = begin(request);
        outcome.number = number;
        post(std::move(outcome));
    }
}

PolicyBuilder::Outcome PolicyBuilder::begin(const JobRequest& request) {
    Outcome out;
    if (generation_ == 0) {
        out.answer = {Answered::not_in_force, "no rules of [egress] are in force"};
        return out;
    }
    auto inventory = in_force_inventory_;
    inventory.resolv = bpf::current_resolv_conf();
    const auto resolvers = bpf::resolvers_of(in_force_, inventory);
    auto policy = policy_of(request, resolvers);
    if (!policy) {
        out.answer = {Answered::wrong, policy.error().text};
        return out;
    }
    auto world = world_of(inventory);
    world.loaders.clear(); // a run's lines name no program
    world.lenders.clear(); // whose questions they are, the host's policy tells
    auto asker = request.asker;
    asker.user_of = [&inventory](std::uint32_t uid) {
        return bpf::user_of(inventory.lenders, uid);
    };
    if (const auto checked = check_sockets(asker); !checked) {
        out.answer = {Answered::wrong, checked.error().text};
        return out;
    }
    if (request.control.starts_with('/')) {
        asker.sockets.push_back(request.control);
    }
    const bool learns = (request.asker.flags & EGRESS_JOB_LEARNS) != 0;
    const auto begun =
        loader_->jobs().begin(asker, [&](std::uint64_t generation) -> Result<bpf::Tables> {
            auto tables = bpf::compile(*policy, world, generation);
            if (!tables || (tables->base->has_names == 0 && !learns)) {
                return tables;
            }
            const auto counts = loader_->set_answers(resolvers, grace_of(in_force_));
            return counts ? std::move(tables) : std::unexpected(counts.error());
        });
    if (!begun) {
        out.answer = {answered(begun.error().why), begun.error().text};
        return out;
    }
    out.job = *begun;
    out.rules = std::move(policy->egress);
    out.answer = Reply{};
    return out;
}

/// Makes a slot ready for the next job while nothing else is to do.
void PolicyBuilder::keep_ready() {
    loader_->jobs().forget_names();
    const auto made = generation_ == 0 ? Result<>() : loader_->jobs().make_ready();
    if (!made && !std::exchange(unready_, true)) {
        log::warning("egress", "no place can be kept ready for a run: {}", made.error().text);
    }
}

void PolicyBuilder::answer(std::vector<std::pair<std::uint64_t, Question>> asked) {
    // The tables are large, so they are not kept: with long lists this takes as long as the
    // installation took.
    auto tables = generation_ == 0
                      ? fail("no rules that this egressd knows are in force")
                      : bpf::compile(in_force_, world_of(in_force_inventory_), generation_);
    for (const auto& [number, question] : asked) {
        Outcome outcome;
        outcome.number = number;
        outcome.answer =
            tables ? question(in_force_, *tables) : Reply{Answered::failed, tables.error().text};
        post(std::move(outcome));
    }
}

void PolicyBuilder::end() {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
}

bool PolicyBuilder::ended() {
    const std::lock_guard lock(mutex_);
    return ended_;
}

std::uint64_t PolicyBuilder::apply(policy::Policy policy, std::optional<bpf::Asker> asker) {
    const std::lock_guard lock(mutex_);
    next_ = std::move(policy);
    next_asker_ = asker;
    changed_.notify_all();
    return ++number_;
}

std::optional<PolicyBuilder::Outcome> PolicyBuilder::take() {
    const std::lock_guard lock(mutex_);
    if (outcomes_.empty()) {
        ready_.quiet();
        return std::nullopt;
    }
    Outcome first = std::move(outcomes_.front());
    outcomes_.erase(outcomes_.begin());
    return first;
}

void PolicyBuilder::post(Outcome&& outcome) {
    const std::lock_guard lock(mutex_);
    outcomes_.push_back(std::move(outcome));
    ready_.ring();
}

/// True: there is a new policy.
bool PolicyBuilder::wait(std::unique_lock<std::mutex>& lock) {
    changed_.wait_for(lock, look_again,
                      [this] { return stop_ || next_ || !asked_.empty() || !asked_jobs_.empty(); });
    return next_.has_value();
}

void PolicyBuilder::run() {
    if (load()) {
        serve();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    ready_.ring();
}

bool PolicyBuilder::load() {
    Outcome outcome;
    outcome.started = true;
    auto loader = bpf::Loader::start(options_);
    if (loader) {
        loader_ = std::move(*loader);
        hold_ = bpf::hold_pins(options_.pins);
        loader_->set_week_at_boot(week_at_boot(clock_)); // before a rule asks for it
    } else {
        outcome.result = std::unexpected(loader.error());
    }
    const bool well = outcome.result.has_value();
    post(std::move(outcome));
    return well;
}

void PolicyBuilder::serve() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
        const bool fresh = wait(lock);
        if (stop_) {
            break;
        }
        if (fresh) {
            current_ = std::move(*next_);
            next_.reset();
            current_number_ = number_;
            current_asker_ = next_asker_;
        }
        auto asked = std::exchange(asked_, {});
        const auto jobs = std::exchange(asked_jobs_, {});
        lock.unlock();
        begin_all(jobs);
        auto now = take_inventory(fresh);
        if (now && (fresh || *now != inventory_)) {
            inventory_ = std::move(*now);
            post(build(!fresh));
        }
        if (!asked.empty()) {
            answer(std::move(asked));
        }
        tidy_again();
        unfold();
        look_for_hidden(fresh);
        keep_ready();
        lock.lock();
    }
}

std::vector<bpf::HiddenAnswers> PolicyBuilder::hidden() {
    const std::lock_guard lock(mutex_);
    return hidden_;
}

/// The files that tell change rarely.
void PolicyBuilder::look_for_hidden(bool fresh) {
    if (!fresh && clock_.now() < hidden_at_) {
        return;
    }
    hidden_at_ = after(clock_.now(), hidden_every);
    auto found = bpf::needs_answers(in_force_)
                     ? bpf::hidden_answers(in_force_, resolvers_for(in_force_, in_force_inventory_))
                     : std::vector<bpf::HiddenAnswers>{};
    const auto before = hidden();
    for (const auto& each : found) {
        if (std::ranges::find(before, each) == before.end()) {
            log::warning("names", "{}; {}", each.what, each.advice);
        }
    }
    const std::lock_guard lock(mutex_);
    hidden_ = std::move(found);
}

void PolicyBuilder::unfold() {
    const auto done = loader_->unfold(false);
    if (!done && !std::exchange(logged_, true)) {
        log::warning("egress", "{}: counts of repeats that nothing follows are missing",
                     done.error().text);
    }
}

/// nullopt: nothing new is known.
std::optional<bpf::Inventory> PolicyBuilder::take_inventory(bool fresh) {
    auto now = bpf::take_inventory(current_, [this] { return loader_->name_files(); });
    if (!now) {
        if (!std::exchange(blind_, true)) {
            log::error("egress", "programs that are replaced are not found anew: {}",
                       now.error().text);
        }
        return fresh ? std::optional(bpf::Inventory{}) : std::nullopt;
    }
    for (const auto& [query, named] : now->paths) {
        if (fresh && !named.file && access(query.path.c_str(), F_OK) < 0 && errno == EACCES) {
            log::warning("rules",
                         "{}: egressd may not look there, so that lines know the file by its place "
                         "alone, and parent= and under= not at all",
                         escape(query.path));
        }
    }
    keep_running(*now, fresh);
    return std::move(*now);
}

/// A replaced program keeps the name that the rules give it for as long as it runs: a process from
/// before a package's upgrade keeps its rules, and so do its children.
void PolicyBuilder::keep_running(bpf::Inventory& now, bool fresh) const {
    const bool changed = now.paths != inventory_.paths;
    if (!fresh && !changed) {
        now.running = inventory_.running; // the usual case: no walk over the table
        return;
    }
    loader_->each_process([&](const egress_process& process) {
        constexpr auto unsure =
            EGRESS_PROCESS_SWEPT | EGRESS_PROCESS_LOST_PLACE | EGRESS_PROCESS_DELETED;
        const bpf::Place place{
            process.place.device,
            {process.place.path, strnlen(process.place.path, sizeof process.place.path)}};
        for (const auto& [query, named] : now.paths) {
            if (query.tree || (named.file && bpf::same_file(*named.file, process.program))) {
                continue;
            }
            // What exec found in the program's place is proof even for a daemon that has just
            // begun.
            const bool was_there = (process.flags & unsure) == 0 &&
                                   std::ranges::find(named.places, place) != named.places.end();
            const auto is_it = [&](const egress_file& file) {
                return bpf::same_file(file, process.program);
            };
            auto& files = now.running[query.path];
            if ((was_there || std::ranges::any_of(inventory_.files(query.path), is_it)) &&
                files.size() < most_files && std::ranges::none_of(files, is_it)) {
                files.push_back(process.program);
            }
        }
    });
    std::erase_if(now.running, [](const auto& one) { return one.second.empty(); });
    for (auto& [name, files] : now.running) {
        // The table has no order; a difference in order alone is no change.
        std::ranges::sort(files, bpf::FileLess());
    }
}

bpf::World PolicyBuilder::world_of(const bpf::Inventory& inventory) const {
    auto world = bpf::world_of(inventory, clock_);
    const auto& key = loader_->settings().path_key;
    world.names_key = {key[0], key[1]};
    return world;
}

/// Answers of resolvers that a new policy names count before it is in force, so that none is
/// missed.
Result<> PolicyBuilder::approve(const policy::Policy& policy,
                                const bpf::Inventory& inventory) const {
    auto resolvers = resolvers_for(policy, inventory);
    if (resolvers.empty() && loader_->jobs().has_names()) {
        auto now = inventory;
        now.resolv = bpf::current_resolv_conf();
        resolvers = bpf::resolvers_of(policy, now);
    }
    return loader_->set_answers(resolvers, grace_of(policy));
}

PolicyBuilder::Outcome PolicyBuilder::build(bool again) {
    Outcome out;
    out.number = current_number_;
    out.again = again;
    out.rules = current_.egress;
    out.generation = loader_->next_generation();
    if (auto tables = bpf::compile(current_, world_of(inventory_), out.generation)) {
        out.prefixes = tables->prefixes;
        if (!again && !options_.monitor) {
            find_lockouts(*tables, out);
        }
        out.lockout = current_asker_ && !again && !out.lockouts.empty();
        out.result = out.lockout ? fail("the rules would cut off what the system needs")
                                 : approve(current_, inventory_);
        if (out.result) {
            out.result = loader_->install(*tables);
        }
    } else {
        out.result = std::unexpected(tables.error());
    }
    if (out.result) {
        in_force_ = current_;
        in_force_inventory_ = inventory_;
        generation_ = out.generation;
        out.resolvers = {
            resolvers_for(in_force_, in_force_inventory_), !in_force_.dns.resolvers.empty(),
            in_force_.dns.grace.value_or(policy::Dns::usual_grace),
            in_force_.dns.refresh.value_or(false), in_force_.dns.queries_listed.value_or(false)};
        tidy(out);
    } else if (generation_ != 0) {
        (void)approve(in_force_, in_force_inventory_); // as it was
        // Refused rules must not come into force later, when a program has changed.
        current_ = in_force_;
        inventory_ = in_force_inventory_;
    } else if (out.lockout) {
        current_ = {};
        inventory_ = {};
    }
    return out;
}

/// The new policy stays in force even if the previous one cannot be removed.
void PolicyBuilder::tidy(Outcome& out) {
    untidy_.reset();
    if (const auto tidied = loader_->tidy(); !tidied) {
        out.untidy = tidied.error().text;
        untidy_ = out;
    }
}

void PolicyBuilder::tidy_again() {
    if (untidy_ && loader_->tidy()) {
        Outcome out = std::move(*std::exchange(untidy_, std::nullopt));
        out.untidy.clear();
        out.again = true;
        post(std::move(out));
    }
}

void PolicyBuilder::find_lockouts(const bpf::Tables& tables, Outcome& out) const {
    auto insiders =
        current_asker_ ? bpf::shells_of(*current_asker_) : std::vector{bpf::root_shell()};
    if (!bpf::name_programs(insiders, [this] { return loader_->name_files(); })) {
        return; // the inventory has logged why
    }
    out.lockouts = bpf::lockouts(current_, tables, insiders, bpf::resolvers("/etc/resolv.conf"),
                                 week_at_boot(clock_));
}

} // namespace egress
