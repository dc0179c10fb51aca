#include "daemon/control/routes.h"

#include <algorithm>
#include <string>
#include <vector>

#include "daemon/base/log.h"
#include "daemon/base/suggest.h"
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
    {"POST", "/v1/reload", verbs::reload, false, "force"},
    {"GET", "/v1/trial", verbs::show_trial},
    {"PUT", "/v1/trial", verbs::try_out, true, "force"},
    {"POST", "/v1/trial", verbs::confirm_trial},
    {"DELETE", "/v1/trial", verbs::end_trial},
    {"GET", "/v1/blocks", verbs::list_blocks, false, "state"},
    {"POST", "/v1/blocks", verbs::block, true, "force session session_port"},
    {"DELETE", "/v1/blocks", verbs::unblock, true},
    {"GET", "/v1/which", verbs::which, false, "addr"},
    {"POST", "/v1/forget", verbs::forget, true},
    {"POST", "/v1/explain", verbs::explain, true},
    {"POST", "/v1/explain/report", verbs::explain_report, true},
    {"GET", "/v1/traffic", verbs::show_traffic},
    {"GET", "/v1/events", verbs::watch, false, "kind action name exe uid addr port rule"},
    {"POST", "/v1/runs", verbs::begin_run, true},
    {"GET", "/v1/runs", verbs::show_run, false, "run"},
    {"POST", "/v1/selftest", verbs::selftest, true},
    {"DELETE", "/v1/selftest", verbs::end_selftest},
    {"DELETE", "/v1/egress", verbs::detach},
};

std::vector<std::string_view> words_of(std::string_view text) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
        const auto end = std::min(text.find(' '), text.size());
        out.push_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

/// What the request has that the route does not take; empty: nothing.
std::string surplus(const Route& route, const Request& request) {
    const auto known = words_of(route.query);
    for (const auto& [name, value] : request.query) {
        if (std::ranges::find(known, name) == known.end()) {
            return fmt::format("\"{}\" is no argument here; {}", escape(name, 64),
                               known.empty() ? "this takes none" : hint(name, known));
        }
        if (name == "force" && value != "1") {
            return "\"force\" is 1, or left out";
        }
    }
    return route.body || request.body.empty() ? "" : "this takes no body";
}

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
                const std::string wrong = surplus(route, request);
                return wrong.empty() ? route.verb(parts, request, answer)
                                     : answer.send(reply::error(400, wrong));
            }
            known = true;
        }
    }
    answer.send(known ? reply::error(405, "this path does not take " + escape(request.method, 16))
                      : reply::error(404, "there is no " + escape(request.path, 64)));
}

} // namespace egress
