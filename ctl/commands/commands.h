// Handlers of the table's commands. Each writes its own output and complaints.
#pragma once

#include "ctl/out.h"
#include "ctl/table.h"

namespace egress::ctl {

Exit run_apply(const Context& context, const Arguments& arguments);
Exit run_block(const Context& context, const Arguments& arguments);
Exit run_check(const Context& context, const Arguments& arguments);
Exit run_completion(const Context& context, const Arguments& arguments);
Exit run_confirm(const Context& context, const Arguments& arguments);
Exit run_detach(const Context& context, const Arguments& arguments);
Exit run_dump(const Context& context, const Arguments& arguments);
Exit run_explain(const Context& context, const Arguments& arguments);
Exit run_forget(const Context& context, const Arguments& arguments);
Exit run_help(const Context& context, const Arguments& arguments);
Exit run_learn(const Context& context, const Arguments& arguments);
Exit run_metrics(const Context& context, const Arguments& arguments);
Exit run_reload(const Context& context, const Arguments& arguments);
Exit run_rules(const Context& context, const Arguments& arguments);
Exit run_run(const Context& context, const Arguments& arguments);
Exit run_selftest(const Context& context, const Arguments& arguments);
Exit run_status(const Context& context, const Arguments& arguments);
Exit run_unblock(const Context& context, const Arguments& arguments);
Exit run_version(const Context& context, const Arguments& arguments);
Exit run_watch(const Context& context, const Arguments& arguments);
Exit run_which(const Context& context, const Arguments& arguments);

/// explain with --report.
Exit explain_report(const Context& context, const Arguments& arguments);

/// The body that names an address, with the options --proto and --name.
Outcome<Json> selection_of(const Arguments& arguments);

} // namespace egress::ctl
