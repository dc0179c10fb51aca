// Follows a trial of rules: how it ends, and what remains in the kernel if no daemon ends it.
#pragma once

#include "ctl/context.h"
#include "daemon/base/clock.h"

namespace egress::ctl {

/// What to report and do if no daemon answers but the kernel side goes on; empty: it does not, or
/// this process may not see it.
std::string left_in_kernel(const Context& context);

/// Waits until the trial that has just begun, for this many seconds, has ended. Complains as soon
/// as egressd is gone; it may come back and continue the trial. ok: the rules were kept; no: the
/// previous ones are in force; unreachable: unknown.
Exit wait_for_end(const Context& context, Seconds seconds);

} // namespace egress::ctl
