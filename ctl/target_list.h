// Files of addresses, one per line, for commands that take --from.
#pragma once

#include <string>
#include <vector>

#include "ctl/context.h"
#include "ctl/values.h"

namespace egress::ctl {

/// Reads a file, or standard input for "-". '#' begins a comment, blank lines are nothing. Lines
/// that are no target are shown on the error stream, and the list fails as a whole.
Outcome<std::vector<Target>> read_targets(const Context& context, const std::string& path);

} // namespace egress::ctl
