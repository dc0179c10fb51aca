// The parts of the daemon that the control API uses.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "daemon/base/socket_guard.h"
#include "daemon/control/http.h"
#include "daemon/control/tasks.h"
#include "daemon/control/watchers.h"
#include "daemon/count/keeper.h"
#include "daemon/count/ledger.h"
#include "daemon/egress/enforcer.h"
#include "daemon/egress/event_log.h"
#include "daemon/firewall/firewall.h"
#include "daemon/reload/rulebook.h"
#include "daemon/report/receiver.h"
#include "daemon/store/event_counts.h"

namespace egress {

/// Every reference outlives the control API.
struct Parts {
    const Clock& clock;
    Ledger& ledger;
    Keeper& keeper;
    const Firewall& firewall;
    const Receiver& receiver;
    Enforcer& enforcer;
    Rulebook& rulebook;
    Watchers& watchers;
    const EventCounts& event_counts;
    const EventLog& event_log;
    const Control& control;
    Tasks& tasks;
    const SocketGuard& socket_guard;
    std::string database;              ///< its directory
    std::string helper;                ///< path of the program
    const std::string& control_socket; ///< its path
    Moment started = 0;
    /// Reads the rules files again, and informs the service manager meanwhile.
    std::function<void(Rulebook::Done, std::optional<bpf::Asker>)> reload;
};

} // namespace egress
