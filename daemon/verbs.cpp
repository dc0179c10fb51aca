#include "daemon/verbs.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "daemon/daemon.h"
#include "daemon/firewall_lines.h"
#include "daemon/log.h"
#include "daemon/policy/print.h"
#include "daemon/set_name.h"
#include "daemon/status.h"
#include "daemon/store/json.h"

namespace egress::verbs {

namespace {

using nlohmann::json;

constexpr std::size_t rows_per_piece = 256;
constexpr Seconds most_seconds = Seconds{100} * 366 * 24 * 60 * 60;

/// JSON from outside may hold anything: what is not UTF-8 is replaced, never thrown at.
std::string dump(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

/// Helpers and databases may hold anything too.
std::string row_text(const store::Row& row) {
    return store::row_json(row).dump(-1, ' ', false, json::error_handler_t::replace);
}

Response error(unsigned status, std::string_view text) {
    return {status, dump({{"error", text}})};
}

Response good(const json& value, unsigned status = 200) {
    return {status, dump(value)};
}

std::optional<std::uint8_t> protocol_of(const json& value) {
    if (value.is_string()) {
        const auto& text = value.get_ref<const std::string&>();
        return text == "tcp"   ? std::optional<std::uint8_t>(6)
               : text == "udp" ? std::optional<std::uint8_t>(17)
                               : lines::number<std::uint8_t>(text);
    }
    if (value.is_number_unsigned() && value.get<std::uint64_t>() <= 255) {
        return static_cast<std::uint8_t>(value.get<unsigned>());
    }
    return std::nullopt;
}

/// The columns that block and unblock share.
struct Target {
    Prefix address;
    std::optional<std::string> name;
    std::optional<std::uint8_t> protocol;
    std::optional<std::uint16_t> port;
};

Result<Target> target_of(const json& body) {
    Target target;
    const auto addr = body.find("addr");
    if (addr == body.end() || !addr->is_string()) {
        return fail("\"addr\" is missing");
    }
    const auto prefix = Prefix::parse(addr->get_ref<const std::string&>());
    if (!prefix) {
        return fail("\"addr\" is no address or prefix: \"" +
                    escape(addr->get_ref<const std::string&>(), 64) +
                    "\" (host bits after the prefix length must be 0)");
    }
    target.address = *prefix;
    if (const auto name = body.find("name"); name != body.end()) {
        if (!name->is_string() || !is_set_name(name->get_ref<const std::string&>())) {
            return fail("\"name\" is no set name (letters, digits, \"_\", \"-\", \".\")");
        }
        target.name = *name;
    }
    if (const auto protocol = body.find("protocol"); protocol != body.end()) {
        target.protocol = protocol_of(*protocol);
        if (!target.protocol) {
            return fail("\"protocol\" is not tcp, udp or a number up to 255");
        }
    }
    if (const auto port = body.find("port"); port != body.end()) {
        if (!port->is_number_unsigned() || port->get<std::uint64_t>() < 1 ||
            port->get<std::uint64_t>() > 65535) {
            return fail("\"port\" is not a number from 1 to 65535");
        }
        target.port = static_cast<std::uint16_t>(port->get<unsigned>());
    }
    return target;
}

Result<json> parse(const std::string& body) {
    json value = json::parse(body, nullptr, false);
    if (!value.is_object()) {
        return fail("the body is not a JSON object");
    }
    return value;
}

constexpr const char* not_durable =
    "done, but the database cannot be written, so it would not outlive a restart";

void block(Daemon& daemon, const Request& request, const Answer& answer) {
    const auto body = parse(request.body);
    const auto target = body ? target_of(*body) : std::unexpected(body.error());
    if (!target) {
        return answer.send(error(400, target.error().text));
    }
    HandBlock wish{target->name.value_or(""), target->address, target->protocol.value_or(0),
                   target->port.value_or(0),  forever,         {}};
    if (const auto seconds = body->find("seconds"); seconds != body->end()) {
        if (!seconds->is_number_unsigned() || seconds->get<std::uint64_t>() < 1 ||
            seconds->get<std::uint64_t>() > static_cast<std::uint64_t>(most_seconds)) {
            return answer.send(
                error(400, fmt::format("\"seconds\" is not a number from 1 to {}", most_seconds)));
        }
        wish.seconds = seconds->get<Seconds>();
    }
    if (const auto reason = body->find("reason"); reason != body->end()) {
        if (!reason->is_string()) {
            return answer.send(error(400, "\"reason\" is not a text"));
        }
        wish.reason = escape(reason->get_ref<const std::string&>(), store::max_reason - 3);
    }
    const auto row = daemon.ledger().block(wish);
    if (!row) {
        return answer.send(error(507, row.error().text));
    }
    log::info("control", "uid {} blocked {}", request.uid, wish.address.text());
    daemon.keeper().when_durable([answer, row = row_text(*row)](bool durable) {
        answer.send(durable ? Response{201, row + "\n"} : error(500, not_durable));
    });
}

void unblock(Daemon& daemon, const Request& request, const Answer& answer) {
    const auto body = parse(request.body);
    const auto target = body ? target_of(*body) : std::unexpected(body.error());
    if (!target) {
        return answer.send(error(400, target.error().text));
    }
    const std::size_t removed =
        daemon.ledger().unblock({target->address, target->name, target->protocol, target->port});
    log::notice("control", "uid {} unblocked {}: {} blocks", request.uid, target->address.text(),
                removed);
    daemon.keeper().when_durable([answer, removed](bool durable) {
        answer.send(durable ? good({{"removed", removed}}) : error(500, not_durable));
    });
}

/// Rows in pieces, a bounded number of rows looked at for each, so that a million rows never hold
/// the loop.
void list(Daemon& daemon, const Request& request, const Answer& answer) {
    const std::string state = request.state.empty() ? "all" : request.state;
    if (state != "all" && state != "blocked" && state != "counting") {
        return answer.send(error(400, "\"state\" is blocked, counting or all"));
    }
    answer.stream([&ledger = daemon.ledger(), state, next = RowId{0}, opened = false, first = true,
                   row = store::Row{}](std::string& out) mutable {
        const Table& table = ledger.table();
        if (!std::exchange(opened, true)) {
            out += '[';
        }
        RowId looked = 0;
        for (; next < table.rows_end() && looked < rows_per_piece; ++next, ++looked) {
            const bool blocked = table[next].state == store::State::blocked;
            if (!table[next].used || (state == "blocked" && !blocked) ||
                (state == "counting" && table[next].state != store::State::counting)) {
                continue;
            }
            ledger.snapshot(next, row);
            out += std::exchange(first, false) ? "\n" : ",\n";
            out += row_text(row);
        }
        if (next < table.rows_end()) {
            out += out.empty() ? " " : "";
            return true;
        }
        out += "\n]\n";
        return false;
    });
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
    if (report.own_goal) {
        return good({{"error", report.force.error().text +
                                   "; the ones in force stay (egressctl --force, or force=1 in the "
                                   "API, takes them nevertheless)"},
                     {"warnings", warnings}},
                    409);
    }
    if (!report.force) {
        const int code = report.force.error().code;
        return good({{"error", report.force.error().text}, {"warnings", warnings}},
                    report.misplaced || code == ECANCELED ? 409
                    : code == ETIMEDOUT                   ? 504
                                                          : 500);
    }
    return good({{"warnings", warnings}});
}

/// Nobody where the peer says that he means it.
std::optional<bpf::Asker> asker_of(const Request& request) {
    return request.force ? std::nullopt : std::optional<bpf::Asker>({request.uid, request.gid});
}

void reload(Daemon& daemon, const Request& request, const Answer& answer) {
    daemon.reload([answer](const Rulebook::Report& report) { answer.send(outcome_of(report)); },
                  asker_of(request));
}

/// The trial of rules: begun, looked at, ended.
void try_out(Daemon& daemon, const Request& request, const Answer& answer) {
    const auto body = parse(request.body);
    if (!body) {
        return answer.send(error(400, body.error().text));
    }
    const auto text = body->find("text");
    const auto name = body->find("name");
    const auto seconds = body->find("seconds");
    if (text == body->end() || !text->is_string() || name == body->end() || !name->is_string()) {
        return answer.send(error(400, "\"text\" and \"name\" of the rules are missing"));
    }
    if (seconds == body->end() || !seconds->is_number_unsigned() || *seconds < 1 ||
        *seconds > Rulebook::most_seconds) {
        return answer.send(error(
            400, fmt::format("\"seconds\" is not a number from 1 to {}", Rulebook::most_seconds)));
    }
    log::notice("control", "uid {} tries out {}", request.uid,
                escape(name->get_ref<const std::string&>()));
    const Moment until = daemon.clock().now() + seconds->get<Seconds>();
    daemon.rulebook().try_out(
        {*name, *text, until},
        [answer](const Rulebook::Report& report) { answer.send(outcome_of(report)); },
        asker_of(request));
}

void show_trial(Daemon& daemon, const Answer& answer) {
    const auto& trial = daemon.rulebook().trial();
    if (!trial) {
        return answer.send(error(404, "no rules are tried out"));
    }
    answer.send(good({{"name", trial->name},
                      {"text", trial->text},
                      {"file", daemon.rulebook().file()},
                      {"seconds", std::max<Seconds>(trial->until - daemon.clock().now(), 0)}}));
}

void end_trial(Daemon& daemon, const Request& request, const Answer& answer) {
    const auto done = [answer](const Rulebook::Report& report) { answer.send(outcome_of(report)); };
    if (request.method == "DELETE") {
        log::notice("control", "uid {} ends the trial of rules", request.uid);
        daemon.rulebook().go_back(done);
    } else {
        log::notice("control", "uid {} confirms the rules that are tried out", request.uid);
        daemon.rulebook().confirm(done);
    }
}

void detach(Daemon& daemon, const Request& request, const Answer& answer) {
    log::notice("control", "uid {} detaches the kernel half", request.uid);
    daemon.enforcer().detach([answer](const Result<std::size_t>& removed) {
        answer.send(removed ? good({{"removed", *removed}}) : error(500, removed.error().text));
    });
}

void explain_verb(Daemon& daemon, const Request& request, const Answer& answer) {
    const auto body = parse(request.body);
    auto question = body ? question_of(*body) : std::unexpected(body.error());
    if (!question) {
        return answer.send(error(400, question.error().text));
    }
    daemon.enforcer().explain(std::move(*question), [answer](const Result<std::string>& found) {
        if (found) {
            return answer.send({200, *found + "\n"});
        }
        const int code = found.error().code;
        answer.send(error(code == ESRCH    ? 404
                          : code == ENOENT ? 409
                          : code == EBUSY  ? 503
                                           : 500,
                          found.error().text));
    });
}

/// The caller, and nobody else, becomes the process that tests the hooks.
void selftest(Daemon& daemon, const Request& request, const Answer& answer) {
    const auto body = parse(request.body);
    const auto started = body ? body->find("started") : json::const_iterator();
    if (!body || started == body->end() || !started->is_number_unsigned()) {
        return answer.send(error(400, body ? "\"started\" is missing, or no number of clock ticks"
                                           : body.error().text));
    }
    auto& enforcer = daemon.enforcer();
    const auto prepare = body->find("prepare");
    const bool only_note = prepare != body->end() && *prepare == true;
    const auto marked =
        request.pid == 0
            ? fail("your process is not seen from egressd's pid namespace", ESRCH)
            : enforcer.mark_canary(request.pid, started->get<std::uint64_t>(), only_note);
    if (!marked) {
        const int code = marked.error().code;
        return answer.send(error(code == ESRCH                     ? 404
                                 : code == ENOENT || code == EBUSY ? 409
                                                                   : 500,
                                 marked.error().text));
    }
    if (!only_note) {
        log::info("control", "uid {} tests the hooks", request.uid);
    }
    const auto* const loader = enforcer.loader();
    const auto status = enforcer.status();
    const auto process = loader->process(loader->settings().canary);
    json hooks = json::object();
    for (const auto& hook : status.coverage) {
        hooks[hook.hook] = hook.attached ? "attached" : hook.why;
    }
    answer.send(good({{"seconds", EGRESS_CANARY_TIME / 1'000'000'000},
                      {"cgroup", enforcer.options().cgroup},
                      {"state", Enforcer::text(status.state)},
                      {"generation", status.kernel.generation},
                      {"monitor", status.kernel.monitor},
                      {"exe", process ? loader->path_of(process->program) : ""},
                      {"known", process.has_value()},
                      {"hooks", hooks}}));
}

void end_selftest(Daemon& daemon, const Answer& answer) {
    const auto refused = daemon.enforcer().unmark_canary();
    answer.send(refused ? good({{"refused", *refused}})
                        : error(409, "no process tests the hooks now"));
}

void watch(Daemon& daemon, const Request& request, const Answer& answer) {
    constexpr auto limits = Watchers::limits;
    auto filter = EventFilter::of(request.query);
    if (!filter) {
        return answer.send(error(400, filter.error().text));
    }
    switch (daemon.watchers().add(answer, request.uid, std::move(*filter))) {
    case Shares::Room::yes:
        break;
    case Shares::Room::user_has_share:
        answer.send(error(503, fmt::format("uid {} has {} watchers already, which is the share of "
                                           "one user",
                                           request.uid, limits.of_user)));
        break;
    case Shares::Room::all_taken:
        answer.send(
            error(503, fmt::format("{} watch already, which is the most",
                                   limits.most - (request.uid == 0 ? 0 : limits.for_root))));
        break;
    }
}

} // namespace

void handle(Daemon& daemon, const Request& request, Answer answer) {
    const bool get = request.method == "GET" || request.method == "HEAD";
    const bool post = request.method == "POST";
    if (request.path == "/v1/status" && get) {
        answer.send(good(status_json(daemon)));
    } else if (request.path == "/metrics" && get) {
        answer.send({200, metrics_text(daemon), "text/plain; version=0.0.4"});
    } else if (request.path == "/v1/rules" && get) {
        answer.send(good({{"text", policy::print(daemon.ledger().policy())},
                          {"file", daemon.rulebook().file()},
                          {"files", daemon.rulebook().state().files}}));
    } else if (request.path == "/v1/blocks" && get) {
        list(daemon, request, answer);
    } else if (request.path == "/v1/blocks" && post) {
        block(daemon, request, answer);
    } else if (request.path == "/v1/blocks" && request.method == "DELETE") {
        unblock(daemon, request, answer);
    } else if (request.path == "/v1/explain" && post) {
        explain_verb(daemon, request, answer);
    } else if (request.path == "/v1/selftest" && post) {
        selftest(daemon, request, answer);
    } else if (request.path == "/v1/selftest" && request.method == "DELETE") {
        end_selftest(daemon, answer);
    } else if (request.path == "/v1/events" && request.method == "GET") {
        watch(daemon, request, answer);
    } else if (request.path == "/v1/egress" && request.method == "DELETE") {
        detach(daemon, request, answer);
    } else if (request.path == "/v1/reload" && post) {
        reload(daemon, request, answer);
    } else if (request.path == "/v1/trial" && request.method == "PUT") {
        try_out(daemon, request, answer);
    } else if (request.path == "/v1/trial" && get) {
        show_trial(daemon, answer);
    } else if (request.path == "/v1/trial" && (post || request.method == "DELETE")) {
        end_trial(daemon, request, answer);
    } else {
        constexpr std::string_view paths[] = {
            "/v1/status", "/metrics",   "/v1/rules",   "/v1/blocks",   "/v1/reload",
            "/v1/egress", "/v1/events", "/v1/explain", "/v1/selftest", "/v1/trial"};
        const bool known = std::ranges::find(paths, request.path) != std::end(paths);
        answer.send(known ? error(405, "this path does not take " + escape(request.method, 16))
                          : error(404, "there is no " + escape(request.path, 64)));
    }
}

} // namespace egress::verbs
