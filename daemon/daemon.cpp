#include "daemon/daemon.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "daemon/base/boot.h"
#include "daemon/base/listener.h"
#include "daemon/base/log.h"
#include "daemon/base/memory.h"
#include "daemon/base/words.h"
#include "daemon/bpf/tables/host.h"
#include "daemon/control/routes.h"
#include "daemon/policy/text/names.h"
#include "egress-paths.h"

namespace egress {

namespace {

constexpr std::size_t deadlines_per_turn = 2'000;
constexpr RowId exempt_rows_per_turn = 4'096;
constexpr const char* clean_key = "stopped"; ///< of the database's "meta": set by a clean stop
constexpr std::uint64_t tick_usec = 1'000'000;
constexpr std::int64_t fold_every = 60;

std::vector<std::string> paths_in(const std::string& file) {
    std::vector<std::string> paths;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
        if (!line.empty() && line.front() == '/') {
            paths.push_back(line);
        }
    }
    return paths;
}

/// The path of a socket from the service manager; empty: it has none.
std::string path_of(int fd) {
    sockaddr_un address{};
    socklen_t length = sizeof address;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
        address.sun_path[0] != '/') {
        return {};
    }
    return {address.sun_path, strnlen(address.sun_path, sizeof address.sun_path)};
}

/// Logs what opening the database found.
void log_findings(const store::Env& env) {
    const auto& found = env.findings();
    for (const auto& note : found.notes) {
        log::warning("database-damaged", "the database in {} is damaged: {}", env.directory(),
                     note);
    }
    if (!found.notes.empty()) {
        log::warning("database-damaged",
                     "{} damaged rows are set aside (egressctl dump -x lists them), the rest goes "
                     "on; {}",
                     found.damaged,
                     found.kept.empty() ? "no copy of the damaged file is kept, there are enough"
                                        : "the damaged file is kept as " + found.kept);
    }
    if (found.upgraded) {
        log::notice("database",
                    "the database in {} had no checksums: it was written anew with them",
                    env.directory());
    }
}

} // namespace

Daemon::Daemon(const DaemonOptions& options, lane::Spawner spawner)
    : options_(options), spawner_(std::move(spawner)), counts_sink_(event_counts_),
      event_log_(clock_, owner_names_, EventLog::write_line) {
    sinks_.add(watchers_);
    sinks_.add(counts_sink_);
    sinks_.add(event_log_);
}

Daemon::~Daemon() {
    for (const auto& path : made_) {
        unlink(path.c_str());
    }
}

Result<std::unique_ptr<Daemon>> Daemon::make(const DaemonOptions& options, policy::Policy policy,
                                             lane::Spawner spawner) {
    std::unique_ptr<Daemon> daemon(new Daemon(options, std::move(spawner)));
    sd_event* event = nullptr;
    if (const int code = sd_event_new(&event); code < 0) {
        return fail_errno("cannot make an event loop", -code);
    }
    daemon->event_.reset(event);
    daemon->started_ = daemon->clock_.now();
    daemon->ledger_ = std::make_unique<Ledger>(
        daemon->clock_, daemon->interfaces_,
        Ledger::Options{options.monitor, options.standard_name, 0}, std::move(policy));
    daemon->ledger_->set_unprivileged_port(policy::LocalNames::unprivileged_port());
    for (auto step : {&Daemon::open_store, &Daemon::open_sockets, &Daemon::open_sources}) {
        if (auto done = (daemon.get()->*step)(); !done) {
            return std::unexpected(done.error());
        }
    }
    return daemon;
}

Result<> Daemon::open_store() {
    if (access((options_.database + "/data.mdb").c_str(), F_OK) == 0) {
        if (auto tried = store::probe(options_.database); !tried) {
            return tried;
        }
    }
    auto env = store::Env::open(options_.database, store::Env::Mode::read_write);
    if (!env) {
        return std::unexpected(env.error());
    }
    log_findings(*env);
    if (options_.flush) {
        if (auto cleared = env->clear(); !cleared) {
            return cleared;
        }
    }
    if (auto kept = open_epoch(*env); !kept) {
        return kept;
    }
    std::size_t rows = 0;
    ledger_->expect(env->rows());
    auto read = env->each([&, now = clock_.now()](store::Row&& row) {
        ledger_->load(row, now);
        ++rows;
        return true;
    });
    if (!read) {
        return read;
    }
    while (ledger_->lift_exempt(exempt_rows_per_turn)) { // by rules that changed meanwhile
    }
    const std::string boot = boot_id();
    const auto before = env->meta("boot");
    if (!before) {
        return std::unexpected(before.error());
    }
    const bool anew = *before != boot || options_.restore;
    if (anew) {
        ledger_->distrust(); // the firewall of another boot is gone
    }
    const auto ended = env->meta(clean_key);
    if (!ended) {
        return std::unexpected(ended.error());
    }
    // Damaged rows are set aside: what the firewall has of them must be adopted.
    stopped_cleanly_ = !ended->empty() && env->findings().notes.empty();
    if (!ended->empty()) {
        if (auto unset = env->set_meta(clean_key, ""); !unset) { // a crash may follow
            return unset;
        }
    }
    log::info("database", "{} in {}", counted(rows, "rows"), options_.database);
    auto store = store::Store::start(std::move(*env));
    if (!store) {
        return std::unexpected(store.error());
    }
    auto keeper = Keeper::make(event_.get(), *ledger_, std::move(*store));
    if (!keeper) {
        return std::unexpected(keeper.error());
    }
    keeper_ = std::move(*keeper);
    keeper_->attach(event_counts_);
    if (anew) {
        // The disk may name this boot only after it says that no block is in force.
        if (auto flushed = keeper_->flush(); !flushed) {
            return flushed;
        }
        return keeper_->store().env().set_meta("boot", boot);
    }
    return {};
}

/// Must be durable before a row is written by it.
Result<> Daemon::open_epoch(store::Env& env) {
    const auto stored = env.meta(store::Epoch::key);
    if (!stored) {
        return std::unexpected(stored.error());
    }
    epoch_ = store::Epoch::at_start(*stored, boot_id(), clock_.at_boot());
    ledger_->set_stored_base(epoch_.base);
    return epoch_.text() == *stored ? Result<>() : env.set_meta(store::Epoch::key, epoch_.text());
}

/// The next boot must know what the stored times mean by the wall clock that holds now.
void Daemon::follow_clock() {
    const auto offset = clock_.at_boot() - epoch_.base;
    if (offset == epoch_.offset) {
        return;
    }
    const auto step = offset - epoch_.offset;
    log::notice("clock", "the wall clock was set {} s {}; blocks last as long as before",
                std::abs(step), step > 0 ? "forward" : "back");
    epoch_.offset = offset;
    keeper_->set_meta(store::Epoch::key, epoch_.text(), [](bool) {});
}

Result<> Daemon::open_sockets() {
    receiver_ = std::make_unique<Receiver>(
        event_.get(), *ledger_, std::move(spawner_),
        [this](std::span<const Report> reports) { ledger_->report(reports); });
    Fd control;
    bool reporting = false;
    const int handed = sd_listen_fds(1);
    for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + handed; ++fd) {
        auto taken = take_listener(Fd(fd));
        if (!taken) {
            return std::unexpected(taken.error());
        }
        if (sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) > 0) {
            if (auto adopted = receiver_->adopt(std::move(*taken)); !adopted) {
                return adopted;
            }
            reporting = true;
            report_paths_.push_back(path_of(fd));
        } else if (sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0) {
            control_path_ = path_of(fd);
            control = std::move(*taken);
        } else {
            log::warning("activation", "descriptor {} from socket activation is no socket of ours",
                         fd);
        }
    }
    std::vector<std::string> paths;
    if (!reporting) {
        paths.push_back(options_.report_socket);
    }
    if (!options_.sockets_file.empty()) {
        if (access(options_.sockets_file.c_str(), R_OK) != 0) {
            return fail_errno("cannot read " + options_.sockets_file);
        }
        const auto more = paths_in(options_.sockets_file);
        paths.insert(paths.end(), more.begin(), more.end());
    }
    for (const auto& path : paths) {
        if (auto listening = receiver_->listen(path); !listening) {
            return listening;
        }
        made_.push_back(path);
        report_paths_.push_back(path);
    }
    if (!control) {
        control_path_ = options_.control_socket;
        auto listening = Control::listen(options_.control_socket);
        if (!listening) {
            return std::unexpected(listening.error());
        }
        control = std::move(*listening);
        made_.push_back(options_.control_socket);
    }
    auto started = Control::start(
        event_.get(), std::move(control), clock_,
        [this](const Request& request, const Answer& answer) { serve(*parts_, request, answer); });
    if (!started) {
        return std::unexpected(started.error());
    }
    control_ = std::move(*started);
    guard_sockets();
    return {};
}

void Daemon::guard_sockets() {
    guard_ = std::make_unique<SocketGuard>(event_.get());
    for (const auto& path : report_paths_) {
        if (path.starts_with('/')) {
            guard_->add(path, [this](const std::string& at) { return receiver_->listen(at); });
        }
    }
    if (control_path_.starts_with('/')) {
        guard_->add(control_path_,
                    [this](const std::string& at) { return control_->listen_again(at); });
    }
}

Result<> Daemon::open_sources() {
    sd_event* const event = event_.get();
    reaper_ = std::make_unique<Reaper>(event);
    Firewall::Options wanted;
    wanted.helper = options_.helper;
    wanted.reconcile = options_.reconcile;
    wanted.flush = options_.flush;
    // After a clean stop the database knows all blocks: what only the firewall holds was put there
    // by another, as a saved ruleset is.
    wanted.adopt = !options_.flush && !stopped_cleanly_;
    firewall_ = std::make_unique<Firewall>(event, *reaper_, *ledger_, clock_, wanted);
    const std::string cgroup = options_.cgroup.empty() ? bpf::cgroup_root() : options_.cgroup;
    enforcer_ = std::make_unique<Enforcer>(
        event, *reaper_, clock_, Enforcer::Options{cgroup, EGRESS_PINS, options_.monitor},
        [this](const egress_event& seen, const policy::EgressRule* rule,
               const std::string& domain) {
            const bool selftest = enforcer_->is_canary(seen);
            sinks_.emit({seen, rule, domain, selftest, owner_names_, enforcer_->loader(), clock_,
                         std::string()});
        });
    reader_ = std::make_unique<RulesReader>(event);
    rulebook_ =
        std::make_unique<Rulebook>(clock_, *ledger_, *enforcer_, *keeper_, *reader_, options_.conf);
    const auto reload_rules = [this](Rulebook::Done done, std::optional<bpf::Asker> asker) {
        reload(std::move(done), asker);
    };
    tasks_ = std::make_unique<Tasks>(event);
    // A process of a run could ask for other rules.
    control_->keep_out([this](std::uint32_t uid, std::uint32_t pid, bool arrives) {
        const auto job = pid == 0 ? bpf::JobOf::none : enforcer_->job_of(pid);
        return job == bpf::JobOf::some || (job == bpf::JobOf::unknown && arrives && uid != 0);
    });
    parts_.reset(new Parts{clock_, *ledger_, *keeper_, *firewall_, *receiver_, *enforcer_,
                           *rulebook_, watchers_, event_counts_, event_log_, *control_, *tasks_,
                           *guard_, options_.database, options_.helper, control_path_, started_,
                           reload_rules});

    // The firewall first: a block goes out before any time is spent on making it durable.
    const auto turn = [this] {
        firewall_->pump();
        keeper_->pump();
        watchers_.pump(*ledger_);
        control_->pump();
    };
    std::vector<Result<Source>> sources;
    sources.push_back(watch_turns(event, turn));
    sources.push_back(watch_signal(event, SIGHUP, [this] {
        reload([](const Rulebook::Report&) {}); // it is in the log
    }));
    for (const int signal : {SIGTERM, SIGINT}) {
        sources.push_back(watch_signal(event, signal, [event] { sd_event_exit(event, 0); }));
    }
    if (interfaces_.fd() >= 0) {
        sources.push_back(
            watch(event, interfaces_.fd(), EPOLLIN, [this](std::uint32_t) { follow_addresses(); }));
    }
    for (auto& source : sources) {
        if (!source) {
            return std::unexpected(source.error());
        }
        sources_.push_back(std::move(*source));
    }
    auto ticks = call_after(event, tick_usec, [this] {
        tick();
        call_again(ticks_, expiring_ ? 0 : tick_usec);
    });
    if (!ticks) {
        return std::unexpected(ticks.error());
    }
    ticks_ = std::move(*ticks);
    sd_event_set_watchdog(event, 1);
    return {};
}

Result<> Daemon::run(std::function<void()> ready) {
    log::start_thread();
    firewall_->start();
    owner_names_.load();
    ready_ = std::move(ready);
    rulebook_->begin([this](const ApplyOutcome& outcome) { on_force(outcome); },
                     {options_.rules_error, options_.hold_egress});
    trim_memory();
    const int code = sd_event_loop(event_.get());
    sd_notify(0, "STOPPING=1");
    receiver_->drain();
    enforcer_->finish();
    event_log_.flush();
    auto finished = keeper_->finish();
    if (finished) {
        finished = keeper_->store().env().set_meta(clean_key, "yes");
    }
    log::notice("end", "stopped; blocks stay in force until their time ends");
    log::flush();
    log::stop_thread();
    if (code < 0) {
        return fail_errno("the event loop failed", -code);
    }
    return finished;
}

/// "systemctl status" shows this line, and must show when nothing is enforced.
void Daemon::report_state() {
    if (getenv("NOTIFY_SOCKET") == nullptr) {
        return;
    }
    auto line = Enforcer::line(enforcer_->status());
    if (line != reported_state_) {
        sd_notify(0, ("STATUS=" + line).c_str());
        reported_state_ = std::move(line);
    }
}

/// The rules of the start are in force, or will not be for a while: the service manager must not
/// wait for ever.
void Daemon::on_force(const ApplyOutcome& outcome) {
    if (!outcome.in_force()) {
        log::error("egress", "started without its rules of [egress] in force: {}", outcome.error);
    }
    log::notice("ready", "ready: {}, {} blocked{}", counted(ledger_->table().size(), "rows"),
                ledger_->blocked(), ledger_->monitor() ? ", monitoring only" : "");
    report_state();
    sd_notify(0, "READY=1");
    if (const auto ready = std::exchange(ready_, {})) {
        ready();
    }
}

/// An address that this host has got may be exempt, as "self", and blocked.
void Daemon::follow_addresses() {
    const auto before = interfaces_.own();
    interfaces_.refresh();
    if (interfaces_.own() != before) {
        ledger_->follow_own();
    }
}

void Daemon::tick() {
    follow_clock();
    ledger_->set_unprivileged_port(policy::LocalNames::unprivileged_port());
    expiring_ = ledger_->expire(deadlines_per_turn);
    expiring_ = ledger_->lift_exempt(exempt_rows_per_turn) || expiring_;
    firewall_->tick();
    keeper_->tick();
    enforcer_->tick();
    rulebook_->tick();
    control_->tick();
    guard_->tick();
    report_state();
    event_log_.tick();
    if (clock_.now() % fold_every == 0) {
        log::flush();
    }
}

void Daemon::reload(Rulebook::Done done, std::optional<bpf::Asker> asker) {
    sd_notify(0, "RELOADING=1");
    owner_names_.load();
    const auto finish = [this, done = std::move(done)](const Rulebook::Report& report) {
        report_state();
        sd_notify(0, "READY=1");
        done(report);
    };
    rulebook_->reload(finish, asker);
}

} // namespace egress
