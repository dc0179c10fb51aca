// The verbs of the rules in force: show, reload, try out.
#pragma once

#include "daemon/control/parts.h"

namespace egress::verbs {

void show_rules(Parts& parts, const Request& request, const Answer& answer);
void reload(Parts& parts, const Request& request, const Answer& answer);
void try_out(Parts& parts, const Request& request, const Answer& answer);
void show_trial(Parts& parts, const Request& request, const Answer& answer);
void confirm_trial(Parts& parts, const Request& request, const Answer& answer);
void end_trial(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress::verbs
