// The trial of rules, as seen from outside: how it ends, and what is left where nobody ends it.
#pragma once

#include "ctl/context.h"
#include "daemon/base/clock.h"

namespace egress::ctl {

/// What is so and what to do where no daemon answers and the kernel half goes on without it;
/// empty: it does not, or this process may not see it.
std::string left_in_kernel(const Context& context);

/// Stays until the trial that has just begun, of so many seconds, has ended. Complains as soon as
/// egressd is gone; it may come back and go on with it.
/// ok: the rules were kept; no: the ones before are in force; unreachable: nobody knows.
Exit wait_for_end(const Context& context, Seconds seconds);

} // namespace egress::ctl
