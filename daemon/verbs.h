// What the control API's routes mean: the verbs behind the paths, and their JSON.
#pragma once

#include "daemon/control.h"

namespace egress {

class Daemon;

namespace verbs {

/// Answers one request, now or when what it did is durable. Bad input gets 4xx with {"error":
/// text}.
void handle(Daemon& daemon, const Request& request, Answer answer);

} // namespace verbs
} // namespace egress
