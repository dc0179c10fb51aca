// The daemon: owns every part and wires sources to handlers. Nothing is decided here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/base/interfaces.h"
#include "daemon/base/loop.h"
#include "daemon/base/socket_guard.h"
#include "daemon/control/parts.h"
#include "daemon/egress/event.h"
#include "daemon/options.h"
#include "daemon/store/epoch.h"

namespace egress {

class Daemon {
  public:
    /// Opens everything; `spawner` was started before. Must be called with all signals blocked and
    /// before any thread exists.
    static Result<std::unique_ptr<Daemon>> make(const DaemonOptions& options, policy::Policy policy,
                                                lane::Spawner spawner);
    ~Daemon();

    /// Runs until SIGTERM or SIGINT; then takes what is queued, makes it durable, and returns.
    /// `ready` is called once, when the rules are in force or will not be for a while.
    Result<> run(std::function<void()> ready);

  private:
    Daemon(const DaemonOptions& options, lane::Spawner spawner);
    Result<> open_store();
    Result<> open_epoch(store::Env& env);
    Result<> open_sockets();
    void guard_sockets();
    Result<> open_sources();
    /// Reads the rules files again, and tells the service manager meanwhile.
    void reload(Rulebook::Done done, std::optional<bpf::Asker> asker = {});
    void follow_addresses();
    void follow_clock();
    void tick();
    void report_state();
    void on_force(const ApplyOutcome& outcome);

    DaemonOptions options_;
    lane::Spawner spawner_; ///< the receiver takes it
    SystemClock clock_;
    Moment started_ = 0;
    store::Epoch epoch_; ///< of the times in the database
    Event event_;
    Interfaces interfaces_;
    std::unique_ptr<Reaper> reaper_;
    std::unique_ptr<Ledger> ledger_;
    std::unique_ptr<Keeper> keeper_;
    std::unique_ptr<Firewall> firewall_;
    std::unique_ptr<Receiver> receiver_;
    OwnerNames owner_names_;
    EventCounts event_counts_;
    CountsSink counts_sink_;
    EventLog event_log_;
    EventSinks sinks_;
    std::unique_ptr<Enforcer> enforcer_;
    std::unique_ptr<RulesReader> reader_;
    std::unique_ptr<Rulebook> rulebook_;
    Watchers watchers_;
    std::unique_ptr<Control> control_;
    std::unique_ptr<Tasks> tasks_;       ///< before what they use
    std::unique_ptr<SocketGuard> guard_; ///< of the sockets above
    std::unique_ptr<Parts> parts_;       ///< what the routes may use
    Source ticks_;
    std::vector<Source> sources_;
    std::vector<std::string> made_;         ///< sockets to remove at the end
    std::vector<std::string> report_paths_; ///< that we listen on; empty ones have no path
    std::string control_path_;
    std::function<void()> ready_;  ///< not called yet
    std::string reported_state_;   ///< to the service manager
    bool stopped_cleanly_ = false; ///< the daemon before this one
    bool expiring_ = false;        ///< more deadlines are due than one turn may apply
};

} // namespace egress
