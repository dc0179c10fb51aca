#include "daemon/builder.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/bpf/objects.h"
#include "daemon/bpf/pins.h"
#include "daemon/log.h"
#include "daemon/week.h"

namespace egress {

namespace {

constexpr std::size_t most_asked = 64;
constexpr auto look_again = std::chrono::seconds(1);

/// Of one path, with those that were replaced and still run.
constexpr std::size_t most_files = 16;

bool same_file(const egress_file& a, const egress_file& b) {
    return a.inode == b.inode && a.device == b.device;
}

bool names_program(const policy::EgressRule& rule) {
    return rule.program.kind == policy::Program::Kind::path;
}

} // namespace

Builder::Builder(const bpf::LoaderOptions& options, const Clock& clock, std::string cgroup_root)
    : options_(options), clock_(clock), cgroup_root_(std::move(cgroup_root)),
      ready_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Result<std::unique_ptr<Builder>> Builder::start(const bpf::LoaderOptions& options,
                                                const Clock& clock, std::string cgroup_root) {
    std::unique_ptr<Builder> builder(new Builder(options, clock, std::move(cgroup_root)));
    if (!builder->ready_) {
        return fail_errno("cannot make an event descriptor");
    }
    builder->thread_ = std::thread([raw = builder.get()] { raw->run(); });
    return builder;
}

Builder::~Builder() {
    end();
    if (thread_.joinable()) {
        thread_.join();
    }
}

std::optional<std::uint64_t> Builder::ask(Look look) {
    const std::lock_guard lock(mutex_);
    if (asked_.size() >= most_asked) {
        return std::nullopt;
    }
    asked_.emplace_back(++questions_, std::move(look));
    changed_.notify_all();
    return questions_;
}

void Builder::answer(std::vector<std::pair<std::uint64_t, Look>> asked) {
    // The tables are large and not kept: with long lists this takes as long as it took to put them
    // in force.
    auto tables = generation_ == 0 ? fail("no rules of [egress] are in force yet")
                                   : compile(in_force_, in_force_seen_, generation_);
    for (const auto& [number, look] : asked) {
        Outcome outcome;
        outcome.number = number;
        outcome.answer = tables ? look(in_force_, *tables)
                                : Result<std::string>(std::unexpected(tables.error()));
        tell(std::move(outcome));
    }
}

void Builder::end() {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
}

bool Builder::ended() {
    const std::lock_guard lock(mutex_);
    return ended_;
}

std::uint64_t Builder::apply(policy::Policy policy, std::optional<bpf::Asker> asker) {
    const std::lock_guard lock(mutex_);
    next_ = std::move(policy);
    next_asker_ = asker;
    changed_.notify_all();
    return ++number_;
}

std::optional<Builder::Outcome> Builder::take() {
    const std::lock_guard lock(mutex_);
    if (outcomes_.empty()) {
        std::uint64_t count = 0;
        [[maybe_unused]] const auto got = read(ready_.get(), &count, sizeof count);
        return std::nullopt;
    }
    Outcome first = std::move(outcomes_.front());
    outcomes_.erase(outcomes_.begin());
    return first;
}

void Builder::tell(Outcome&& outcome) {
    const std::lock_guard lock(mutex_);
    outcomes_.push_back(std::move(outcome));
    wake();
}

void Builder::wake() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto put = write(ready_.get(), &one, sizeof one);
}

/// True: there is a new policy.
bool Builder::wait(std::unique_lock<std::mutex>& lock) {
    changed_.wait_for(lock, look_again, [this] { return stop_ || next_ || !asked_.empty(); });
    return next_.has_value();
}

void Builder::run() {
    if (load()) {
        serve();
    }
    const std::lock_guard lock(mutex_);
    ended_ = true;
    wake();
}

bool Builder::load() {
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
    tell(std::move(outcome));
    return well;
}

void Builder::serve() {
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
        lock.unlock();
        Seen now = look(fresh);
        if (fresh || !same(now, seen_)) {
            seen_ = std::move(now);
            tell(build(!fresh));
        }
        if (!asked.empty()) {
            answer(std::move(asked));
        }
        unfold();
        lock.lock();
    }
}

void Builder::unfold() {
    const auto done = loader_->unfold(false);
    if (!done && !std::exchange(told_, true)) {
        log::warning("egress", "{}: counts of repeats that nothing follows are missing",
                     done.error().text);
    }
}

Builder::Seen Builder::look(bool fresh) const {
    Seen seen;
    const auto ask = [&seen](const std::string& path) {
        if (!path.empty() &&
            std::ranges::none_of(seen.files, [&](const auto& one) { return one.first == path; })) {
            const auto file = bpf::file_at(path);
            seen.files.emplace_back(path, file ? std::vector{*file} : std::vector<egress_file>{});
        }
    };
    for (const auto& rule : current_.egress) {
        if (names_program(rule)) {
            ask(rule.program.text);
        }
        ask(rule.options.parent);
        ask(rule.options.under);
        if (!rule.options.cgroup.empty() || !rule.options.unit.empty()) {
            seen.cgroups.push_back(bpf::find_cgroups(cgroup_root_, rule.options));
        } else {
            seen.cgroups.emplace_back();
        }
    }
    keep_running(seen, fresh);
    return seen;
}

/// A program that was replaced stays what the rules call it for as long as it runs: who was started
/// before the upgrade of a package keeps its rules, and so do those that it starts.
void Builder::keep_running(Seen& seen, bool fresh) const {
    const auto before = [this](const std::string& path) -> const std::vector<egress_file>* {
        const auto found =
            std::ranges::find(seen_.files, path, [](const auto& one) { return one.first; });
        return found != seen_.files.end() ? &found->second : nullptr;
    };
    const bool changed = std::ranges::any_of(seen.files, [&](const auto& one) {
        const auto* const old = before(one.first);
        return old == nullptr || !std::ranges::equal(*old, one.second, same_file);
    });
    if (!fresh && !changed) {
        return; // which is nearly always: the table is not walked then
    }
    loader_->each_process([&](const egress_process& process) {
        // Where exec has noted the host's own path, that is proof even for a daemon that has just
        // begun.
        const bool sure = (process.flags & (EGRESS_PROCESS_HOST_PATH | EGRESS_PROCESS_SWEPT)) ==
                          EGRESS_PROCESS_HOST_PATH;
        const std::string_view path(process.path.path,
                                    strnlen(process.path.path, sizeof process.path.path));
        const auto is_it = [&](const egress_file& file) {
            return same_file(file, process.program);
        };
        for (auto& [name, files] : seen.files) {
            const auto* const old = before(name);
            if (((sure && path == name) || (old != nullptr && std::ranges::any_of(*old, is_it))) &&
                files.size() < most_files && std::ranges::none_of(files, is_it)) {
                files.push_back(process.program);
            }
        }
    });
    for (auto& [name, files] : seen.files) {
        // The table has no order of its own, and nothing has changed where only the order has.
        std::ranges::sort(files, [](const auto& a, const auto& b) {
            return std::pair(a.device, a.inode) < std::pair(b.device, b.inode);
        });
    }
}

bool Builder::same(const Seen& a, const Seen& b) {
    const auto same_files = [](const auto& x, const auto& y) {
        return x.first == y.first && std::ranges::equal(x.second, y.second, same_file);
    };
    const auto same_cgroups = [](const auto& x, const auto& y) {
        return std::ranges::equal(x, y, [](const auto& c, const auto& d) { return c.id == d.id; });
    };
    return std::ranges::equal(a.files, b.files, same_files) &&
           std::ranges::equal(a.cgroups, b.cgroups, same_cgroups);
}

Result<bpf::Tables> Builder::compile(const policy::Policy& policy, const Seen& seen,
                                     std::uint64_t generation) const {
    bpf::World world;
    world.wall_at_boot = clock_.at_boot();
    world.files = [&seen](const std::string& path) {
        const auto found =
            std::ranges::find(seen.files, path, [](const auto& one) { return one.first; });
        return found != seen.files.end() ? found->second : std::vector<egress_file>{};
    };
    world.cgroups = [&](const policy::EgressOptions& options) {
        const auto rule = std::ranges::find_if(
            policy.egress, [&](const auto& each) { return &each.options == &options; });
        return seen.cgroups[static_cast<std::size_t>(rule - policy.egress.begin())];
    };
    return bpf::compile(policy, world, generation);
}

Builder::Outcome Builder::build(bool again) {
    Outcome out;
    out.number = current_number_;
    out.again = again;
    out.rules = current_.egress;
    out.generation = loader_->next_generation();
    if (auto tables = compile(current_, seen_, out.generation)) {
        out.prefixes = tables->prefixes;
        if (!again && !options_.monitor) {
            find_own_goals(*tables, out);
        }
        out.result = current_asker_ && !again && !out.own_goals.empty()
                         ? fail("the rules would cut off what the system needs", own_goal)
                         : loader_->install(*tables);
    } else {
        out.result = std::unexpected(tables.error());
    }
    if (loader_->generation() == out.generation) {
        in_force_ = current_;
        in_force_seen_ = seen_;
        generation_ = out.generation;
    } else if (generation_ != 0) {
        // What was refused must not come into force later, when a program has changed.
        current_ = in_force_;
        seen_ = in_force_seen_;
    } else if (!out.result && out.result.error().code == own_goal) {
        current_ = {};
        seen_ = {};
    }
    return out;
}

void Builder::find_own_goals(const bpf::Tables& tables, Outcome& out) const {
    const auto insiders =
        current_asker_ ? bpf::shells_of(*current_asker_) : std::vector{bpf::root_shell()};
    out.own_goals = bpf::own_goals(current_, tables, insiders, bpf::resolvers("/etc/resolv.conf"),
                                   week_at_boot(clock_));
}

} // namespace egress
