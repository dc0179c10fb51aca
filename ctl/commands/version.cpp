// version: of this program, and of the daemon if one answers.
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "egress-paths.h"

namespace egress::ctl {

Exit run_version(const Context& context, const Arguments&) {
    const auto status = call(context, {"GET", "/v1/status"});
    const auto daemon = status ? text_at(*status, "version") : std::string{};
    if (context.json) {
        Json versions;
        versions["egressctl"] = EGRESS_VERSION;
        if (!daemon.empty()) {
            versions["egressd"] = daemon;
        }
        print(context.out, "{}\n", to_text(versions));
        return Exit::ok;
    }
    print(context.out, "egressctl {}\n", EGRESS_VERSION);
    if (!daemon.empty()) {
        print(context.out, "egressd {}\n", daemon);
    } else if (!status) {
        // Not a failure: the question has been answered.
        print(context.out, "egressd unknown: {}\n", status.error().text);
    }
    return Exit::ok;
}

} // namespace egress::ctl
