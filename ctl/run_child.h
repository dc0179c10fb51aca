// The command of egressctl run: a child of ours in our own process group, so that the terminal's
// signals and job control reach it as if we were not there.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "daemon/base/result.h"

namespace egress::ctl {

/// The child's last words before it became the command, or instead of that.
struct Started {
    pid_t child = -1;
    std::string told;   ///< by `prepare`
    bool ready = false; ///< `prepare` went well; the child has become the command, or failed to
};

/// What the child does first. False: it ends; `told` reaches the parent in any case.
using Prepare = std::function<bool(std::string& told)>;

/// Exit status of a child that did not get as far as the command.
inline constexpr int not_prepared = 125;

Result<Started> start_child(const std::vector<std::string>& command, const Prepare& prepare);

/// Waits for the child, stops and goes on with it, and hands it the signals that others send to us.
/// Returns its exit status, 128 + the signal's number if one ended it.
int wait_for_child(pid_t child);

} // namespace egress::ctl
