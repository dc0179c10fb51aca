#include "daemon/control/rules.h"

#include <algorithm>

#include "daemon/base/fields.h"
#include "daemon/base/log.h"
#include "daemon/control/reply.h"
#include "daemon/policy/print/print.h"

namespace egress::verbs {

using nlohmann::json;
using reply::error;
using reply::good;

namespace {

unsigned status_of(Applied applied) {
    switch (applied) {
    case Applied::in_force:
        return 200;
    case Applied::lockout:
    case Applied::superseded:
        return 409;
    case Applied::still_pending:
        return 504;
    case Applied::unavailable:
        return 503;
    case Applied::failed:
        break;
    }
    return 500;
}

Response outcome_of(const Rulebook::Report& report) {
    json errors = json::array();
    json warnings = json::array();
    for (const auto& diagnostic : report.diagnostics) {
        const bool error = diagnostic.severity == policy::Diagnostic::Severity::error;
        (error ? errors : warnings).push_back(diagnostic.message());
    }
    if (!report.parsed) {
        return good({{"error", "the rules have errors; the ones in force stay"},
                     {"errors", errors},
                     {"warnings", warnings}},
                    422);
    }
    if (report.force.applied == Applied::lockout) {
        return good({{"error", report.force.error +
                                   "; the ones in force stay (egressctl --force, or force=1 in the "
                                   "API, takes them nevertheless)"},
                     {"warnings", warnings}},
                    409);
    }
    if (!report.force.in_force()) {
        return good({{"error", report.force.error}, {"warnings", warnings}},
                    report.misplaced ? 409 : status_of(report.force.applied));
    }
    return good({{"warnings", warnings}});
}

/// The process that must not be locked out; nullopt: the peer forces the rules.
std::optional<bpf::Asker> asker_of(const Request& request) {
    return request.argument("force") == "1" ? std::nullopt
                                            : std::optional<bpf::Asker>({request.uid, request.gid});
}

Rulebook::Done answer_with(const Answer& answer) {
    return [answer](const Rulebook::Report& report) { answer.send(outcome_of(report)); };
}

} // namespace

void show_rules(Parts& parts, const Request&, const Answer& answer) {
    answer.send(good({{"text", policy::print(parts.ledger.policy())},
                      {"file", parts.rulebook.file()},
                      {"files", parts.rulebook.state().files}}));
}

void reload(Parts& parts, const Request& request, const Answer& answer) {
    parts.reload(answer_with(answer), asker_of(request));
}

void try_out(Parts& parts, const Request& request, const Answer& answer) {
    const auto body = reply::body_of(request);
    if (!body) {
        return answer.send(error(400, body.error().text));
    }
    Fields fields(*body);
    const auto text = fields.text("text", Fields::Kind::document);
    const auto name = fields.text("name");
    const auto seconds =
        fields.number<Seconds>("seconds", static_cast<std::uint64_t>(Rulebook::most_seconds), 1);
    for (const char* const key : {"text", "name", "seconds"}) {
        if (!fields.has(key)) {
            fields.wrong(key, "is missing");
        }
    }
    if (const auto read = fields.good(); !read) {
        return answer.send(error(400, read.error().text));
    }
    log::notice("control", "uid {} tries out {}", request.uid, escape(*name));
    parts.rulebook.try_out({*name, *text, parts.clock.now() + *seconds}, answer_with(answer),
                           asker_of(request));
}

void show_trial(Parts& parts, const Request&, const Answer& answer) {
    const auto& trial = parts.rulebook.trial();
    if (!trial) {
        return answer.send(error(404, "no rules are tried out"));
    }
    answer.send(good({{"name", trial->name},
                      {"text", trial->text},
                      {"file", parts.rulebook.file()},
                      {"seconds", std::max<Seconds>(trial->until - parts.clock.now(), 0)}}));
}

void confirm_trial(Parts& parts, const Request& request, const Answer& answer) {
    log::notice("control", "uid {} confirms the rules that are tried out", request.uid);
    parts.rulebook.confirm(answer_with(answer));
}

void end_trial(Parts& parts, const Request& request, const Answer& answer) {
    log::notice("control", "uid {} ends the trial of rules", request.uid);
    parts.rulebook.go_back(answer_with(answer));
}

} // namespace egress::verbs
