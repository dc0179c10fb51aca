// The AF_UNIX sockets that a run asks for (egressctl run --allow unix:...).
#pragma once

#include <string>

#include "daemon/base/result.h"
#include "daemon/bpf/load/jobs.h"

namespace egress {

/// Checks the sockets that are asked for, and turns "*" into its flag. For others than root each
/// path must be proof of what it leads to: only root may be able to change it. Reads directories:
/// not for the loop.
Result<> check_sockets(bpf::Jobs::Asker& asker);

} // namespace egress
