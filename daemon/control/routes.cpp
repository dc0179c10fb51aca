#include "daemon/control/routes.h"

#include <algorithm>

#include "daemon/base/log.h"
#include "daemon/control/blocks.h"
#include "daemon/control/kernel.h"
#include "daemon/control/reply.h"
#include "daemon/control/rules.h"
#include "daemon/control/runs.h"
#include "daemon/control/status.h"
#include "daemon/control/traffic.h"
#include "daemon/control/who.h"

namespace egress {

namespace {

constexpr Route table[] = {
    {"GET", "/v1/status", verbs::show_status},
    {"GET", "/metrics", verbs::show_metrics},
    {"GET", "/v1/rules", verbs::show_rules},
    {"POST", "/v1/reload", verbs::reload},
    {"GET", "/v1/trial", verbs::show_trial},
    {"PUT", "/v1/trial", verbs::try_out},
    {"POST", "/v1/trial", verbs::confirm_trial},
    {"DELETE", "/v1/trial", verbs::end_trial},
    {"GET", "/v1/blocks", verbs::list_blocks},
    {"POST", "/v1/blocks", verbs::block},
    {"DELETE", "/v1/blocks", verbs::unblock},
    {"GET", "/v1/which", verbs::which},
    {"POST", "/v1/forget", verbs::forget},
    {"POST", "/v1/explain", verbs::explain},
    {"POST", "/v1/explain/report", verbs::explain_report},
    {"GET", "/v1/traffic", verbs::show_traffic},
    {"GET", "/v1/events", verbs::watch},
    {"POST", "/v1/runs", verbs::begin_run},
    {"GET", "/v1/runs", verbs::show_run},
    {"POST", "/v1/selftest", verbs::selftest},
    {"DELETE", "/v1/selftest", verbs::end_selftest},
    {"DELETE", "/v1/egress", verbs::detach},
};

/// A feed has no end and so no length for HEAD.
bool takes(const Route& route, std::string_view method) {
    return route.method == method ||
           (method == "HEAD" && route.method == "GET" && route.verb != verbs::watch);
}

} // namespace

std::span<const Route> routes() {
    return table;
}

void serve(Parts& parts, const Request& request, const Answer& answer) {
    bool known = false;
    for (const auto& route : table) {
        if (route.path == request.path) {
            if (takes(route, request.method)) {
                return route.verb(parts, request, answer);
            }
            known = true;
        }
    }
    answer.send(known ? reply::error(405, "this path does not take " + escape(request.method, 16))
                      : reply::error(404, "there is no " + escape(request.path, 64)));
}

} // namespace egress
