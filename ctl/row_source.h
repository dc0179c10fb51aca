// Rows from the daemon, for those who may not read its database.
#pragma once

#include <functional>

#include "ctl/context.h"
#include "daemon/store/event_row.h"
#include "daemon/store/records.h"

namespace egress::ctl {

/// Calls `visit` for every row that the daemon has. The time of the last access is 0: the daemon
/// does not tell it.
Outcome<void> rows_of_daemon(const Context& context,
                             const std::function<void(store::Row&&)>& visit);

/// The same for the traffic that the hooks saw. The number of damaged rows, which are left out.
Outcome<std::uint64_t> traffic_of_daemon(const Context& context,
                                         const std::function<void(store::EventRow&&)>& visit);

} // namespace egress::ctl
