#include "daemon/enforcer.h"

#include <algorithm>
#include <ctime>

#include <sys/epoll.h>

#include "daemon/bpf/objects.h"
#include "daemon/bpf/pins.h"
#include "daemon/log.h"

namespace egress {

namespace {

constexpr std::size_t events_per_turn = 512;
constexpr std::int64_t day = 24 * 60 * 60;
constexpr std::int64_t week = 7 * day;

bool pinned(const std::string& pins) {
    return access((pins + "/config").c_str(), F_OK) == 0;
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

Enforcer::Enforcer(sd_event* event, const Clock& clock, Options options, OnEvent on_event)
    : event_(event), clock_(clock), options_(std::move(options)), on_event_(std::move(on_event)) {}

Enforcer::~Enforcer() = default;

Result<> Enforcer::start() {
    auto loader = bpf::Loader::start({options_.cgroup, options_.pins, options_.monitor});
    if (!loader) {
        return std::unexpected(loader.error());
    }
    hold_ = bpf::hold_pins(options_.pins);
    auto builder = Builder::start(**loader, clock_, bpf::cgroup_root());
    if (!builder) {
        return std::unexpected(builder.error());
    }
    loader_ = std::move(*loader);
    builder_ = std::move(*builder);
    for (const auto& hook : loader_->coverage()) {
        if (!hook.attached) {
            log::warning("egress", "hook {} is not attached: {}", hook.hook, hook.why);
        }
    }
    const auto watch = [this](Source& source, int fd, sd_event_io_handler_t handler) {
        sd_event_source* raw = nullptr;
        const int code = sd_event_add_io(event_, &raw, fd, EPOLLIN, handler, this);
        source.reset(raw);
        return code;
    };
    if (watch(outcome_source_, builder_->fd(), on_outcome) < 0 ||
        watch(ring_source_, loader_->event_fd(), on_ring) < 0) {
        return fail("cannot watch the kernel's events");
    }
    set_week();
    return {};
}

/// What the builder needs of a policy.
policy::Policy Enforcer::part_of(const policy::Policy& policy) {
    policy::Policy part;
    part.egress = policy.egress;
    part.lists = policy.lists;
    return part;
}

void Enforcer::apply(const policy::Policy& policy, OnForce done) {
    if (!detaching_.empty()) {
        after_ = part_of(policy);
        after_done_ = std::move(done);
        return;
    }
    const bool wanted = !policy.egress.empty();
    if (!loader_ && !wanted && !pinned(options_.pins)) {
        if (done) {
            done({});
        }
        return;
    }
    if (!loader_) {
        status_.state = Status::State::starting;
        if (auto started = start(); !started) {
            fail_with(started.error());
            if (done) {
                done(started);
            }
            return;
        }
    }
    finish(fail("overtaken by another policy"));
    waiting_ = builder_->apply(part_of(policy));
    done_ = std::move(done);
}

void Enforcer::explain(Question question, OnAnswer done) {
    if (!builder_ || !detaching_.empty()) {
        done(fail("no rules of [egress] are in force", ENOENT));
        return;
    }
    const auto look = [question = std::move(question),
                       &loader = *loader_](const policy::Policy& policy,
                                           const bpf::Tables& tables) -> Result<std::string> {
        const auto answer = egress::explain(question, loader, policy, tables, bpf::cgroup_root());
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
    while (loader_ && take_events() == events_per_turn) { // what it saw until now
    }
    finish(fail("detached"));
    for (const auto& [number, done] : std::exchange(asking_, {})) {
        done(fail("no rules of [egress] are in force", ENOENT));
    }
    outcome_source_.reset();
    ring_source_.reset();
    builder_.reset();
    loader_.reset();
    hold_.reset();
    rules_.clear();
    status_ = {};
    const auto removed = bpf::remove_pins(options_.pins);
    status_.state = removed ? Status::State::detached : Status::State::failed;
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
        apply(*policy, std::exchange(after_done_, {}));
    }
}

void Enforcer::fail_with(const Error& error) {
    status_.state = status_.generation == 0 ? Status::State::failed : Status::State::in_force;
    status_.last_error = error.text;
    log::error("egress", "the rules of [egress] are {}: {}",
               status_.generation == 0 ? "NOT ENFORCED" : "the ones before", error.text);
}

void Enforcer::finish(const Result<>& result) {
    if (auto done = std::move(done_)) {
        done_ = {};
        done(result);
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
        if (!outcome->result) {
            fail_with(outcome->result.error());
        } else {
            status_.state = Status::State::in_force;
            status_.last_error.clear();
            status_.generation = outcome->generation;
            status_.prefixes = outcome->prefixes;
            status_.rules = outcome->rules.size();
            rules_.emplace_back(outcome->generation, outcome->rules);
            if (rules_.size() > EGRESS_SLOTS) {
                rules_.erase(rules_.begin());
            }
            log::info("egress", "{} rules of [egress] in force, generation {}", status_.rules,
                      status_.generation);
        }
        if (!outcome->again && outcome->number == waiting_) {
            finish(outcome->result);
        }
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

void Enforcer::tick() {
    if (loader_) {
        set_week();
    }
}

void Enforcer::set_week() {
    // The kernel knows no time zones: it is told anew when the clock or the season changes.
    const std::time_t now = static_cast<std::time_t>(clock_.wall());
    std::tm local{};
    localtime_r(&now, &local);
    const std::int64_t second =
        (local.tm_wday + 6) % 7 * day + local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec;
    const std::int64_t at_boot = ((second - clock_.now()) % week + week) % week;
    loader_->set_week_at_boot(static_cast<std::uint64_t>(at_boot));
}

Enforcer::Status Enforcer::status() const {
    Status out = status_;
    if (loader_) {
        out.counters = loader_->counters();
        out.coverage = loader_->coverage();
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
