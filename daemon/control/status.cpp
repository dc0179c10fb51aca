#include "daemon/control/status.h"

#include <algorithm>

#include <fmt/format.h>
#include <unistd.h>

#include "daemon/base/protocol.h"
#include "daemon/control/reply.h"
#include "daemon/store/json.h"
#include "egress-paths.h"

namespace egress {

namespace {

using nlohmann::json;

json reports_json(const Parts& parts) {
    const auto& counted = parts.ledger.counters();
    return {{"taken", parts.receiver.counters().taken},
            {"matched", counted.matched},
            {"unmatched", counted.unmatched},
            {"forgeable", counted.forgeable},
            {"unproved", counted.unproved},
            {"failures", counted.failures},
            {"successes", counted.successes},
            {"blocked", counted.blocks},
            {"extended", counted.extended},
            {"lifted", counted.lifted},
            {"expired", counted.expired},
            {"table_full", counted.table_full}};
}

json refused_json(const Parts& parts) {
    json refused = json::object();
    const auto& counted = parts.receiver.counters().refused;
    for (std::size_t kind = 0; kind < counted.size(); ++kind) {
        refused[std::string(refusal_names[kind])] = counted[kind];
    }
    return refused;
}

json helper_json(const Parts& parts) {
    const auto status = parts.firewall.status();
    return {{"state", Firewall::text(status.state)},
            {"path", parts.helper},
            {"implementation", status.implementation},
            {"pending", status.pending},
            {"requests", status.requests},
            {"errors", status.errors},
            {"restarts", status.restarts},
            {"kills", parts.ledger.counters().killed},
            {"reconciled", status.reconciled},
            {"last_error", status.last_error}};
}

json rules_json(const Parts& parts) {
    const auto& policy = parts.ledger.policy();
    const auto& state = parts.rulebook.state();
    json out = {{"files", state.files},           {"local", policy.local.size()},
                {"remote", policy.remote.size()}, {"trusted", policy.trusted.size()},
                {"egress", policy.egress.size()}, {"loaded", store::iso_time(state.loaded)},
                {"last_error", state.last_error}, {"reading", parts.rulebook.reading()}};
    if (const auto& trial = parts.rulebook.trial()) {
        out["trial"] = {{"name", trial->name},
                        {"seconds", std::max<Seconds>(trial->until - parts.clock.now(), 0)}};
    }
    return out;
}

/// Losses by reason, in total and by CPU.
json losses_json(const bpf::KernelCounters& counters) {
    constexpr const char* reasons[EGRESS_LOSSES] = {"ring",     "processes", "broken", "sockets",
                                                    "suspects", "folds",     "answers"};
    json out = json::object();
    for (std::size_t reason = 0; reason < EGRESS_LOSSES; ++reason) {
        out[reasons[reason]] = {{"count", counters.losses[reason]},
                                {"cpus", counters.losses_by_cpu[reason]}};
    }
    return out;
}

/// Event counts, queued for the database and in it.
json counts_json(const Parts& parts) {
    const auto& waiting = parts.event_counts;
    const auto& stored = parts.keeper.store().events();
    return {{"rows", stored.rows.load()},
            {"pending", waiting.size()},
            {"widened", waiting.widened() + stored.widened.load()},
            {"overflowed", waiting.overflowed() + stored.overflowed.load()}};
}

/// Events by kind: logged one by one, and in summaries.
json log_json(const Parts& parts) {
    json out = json::object();
    for (std::size_t kind = 0; kind < EventLog::kinds; ++kind) {
        const auto& counted = parts.event_log.counters(static_cast<EventLog::Kind>(kind));
        out[EventLog::kind_names[kind]] = {{"written", counted.written},
                                           {"summed_up", counted.summed_up}};
    }
    return out;
}

/// By enum egress_dns.
constexpr const char* dns_outcomes[] = {
    "asked", "read",     "granted",   "negative",  "truncated",  "private", "unasked",
    "late",  "repeated", "forgotten", "questions", "unreadable", "chain",   "stream",
    "full",  "busy",     "delayed",   "untold",    "not_listed"};
static_assert(std::size(dns_outcomes) == EGRESS_DNS_OUTCOMES);

/// Destinations by name: whose answers count and what became of them. null: no line needs any.
json dns_json(const Enforcer::Status& status) {
    if (!status.reads_names) {
        return {};
    }
    json outcomes = json::object();
    for (std::size_t i = 0; i < std::size(dns_outcomes); ++i) {
        outcomes[dns_outcomes[i]] = status.counters.dns[i];
    }
    json resolvers = json::array();
    for (const auto& each : status.resolvers.all) {
        resolvers.push_back(bpf::text_of({each}));
    }
    json hidden = json::array();
    for (const auto& each : status.hidden) {
        hidden.push_back({{"what", each.what}, {"advice", each.advice}});
    }
    return {{"resolvers", resolvers},
            {"from", status.resolvers.given ? "[dns]" : "/etc/resolv.conf"},
            {"grace", status.grace},
            {"grants", status.grants},
            {"grants_max", EGRESS_GRANTS_SETS * EGRESS_GRANTS_WAYS},
            {"names", status.names},
            {"lookups",
             {{"names", status.lookups.names},
              {"answered", status.lookups.answered},
              {"silent", status.lookups.silent},
              {"refused", status.lookups.refused}}},
            {"outcomes", outcomes},
            {"hidden", hidden}};
}

/// Traffic that the hooks do not check.
json not_covered(const Enforcer::Status& status) {
    json out = {"AF_PACKET sockets", "tun devices", "vsock"};
    const auto lacks = [&](std::initializer_list<std::string_view> programs) {
        return !status.coverage.empty() &&
               std::ranges::none_of(status.coverage, [&](const bpf::Coverage& each) {
                   return each.attached && std::ranges::count(programs, each.hook) > 0;
               });
    };
    const auto packets = std::ranges::find(status.coverage, "egress_packet", &bpf::Coverage::hook);
    if (packets != status.coverage.end() && !packets->attached) {
        out.push_back("packets of raw sockets");
        out.push_back("connections from before the rules");
    }
    if (packets != status.coverage.end() && !(packets->attached && status.knows_sender)) {
        out.push_back("connected sockets passed by descriptor");
    }
    if (lacks({"egress_write", "egress_write_fn"})) {
        out.push_back("delayed sends on TCP sockets passed by descriptor");
    }
    if (!status.coverage.empty()) {
        out.push_back("delayed sends on MPTCP and UDP sockets passed by descriptor");
    }
    if (lacks({"egress_family"})) {
        out.push_back("RDS, SMC, TIPC and RxRPC sockets");
    }
    if (!status.coverage.empty() && !status.covers_sockets()) {
        out.push_back("AF_UNIX sockets, of runs and of unix: lines");
    }
    if (status.reads_names) {
        out.push_back("answers that a program gets over TLS or HTTPS by itself");
    }
    return out;
}

json egress_json(const Parts& parts) {
    const auto status = parts.enforcer.status();
    // Of the rules of another daemon only the number is known.
    const bool own = status.own || !status.kernel.something();
    json hooks = json::object();
    for (const auto& hook : status.coverage) {
        hooks[hook.hook] = hook.attached ? "attached" : hook.why;
    }
    return {{"state", Enforcer::text(status.state)},
            {"monitor", status.kernel.monitor},
            {"rules", own ? json(status.rules) : json()},
            {"prefixes", own ? json(status.prefixes) : json()},
            {"generation", status.kernel.generation},
            {"other_version", status.kernel.other_version},
            {"last_error", status.last_error},
            {"runs", status.runs},
            {"hooks", hooks},
            {"events",
             {{"made", status.counters.sequence},
              {"read", status.events},
              {"waiting", status.counters.waiting},
              {"lost", status.counters.losses[EGRESS_LOST_RING]},
              {"missed", status.missed},
              {"watchers", parts.watchers.size()}}},
            {"counts", counts_json(parts)},
            {"log", log_json(parts)},
            {"losses", losses_json(status.counters)},
            {"processes_lost", status.counters.losses[EGRESS_LOST_PROCESS]},
            {"sockets_lost", status.counters.losses[EGRESS_LOST_SOCKET]},
            {"broken", status.counters.losses[EGRESS_LOST_BROKEN]},
            {"looks",
             {{"connect4", status.counters.looks[EGRESS_HOOK_CONNECT4]},
              {"connect6", status.counters.looks[EGRESS_HOOK_CONNECT6]},
              {"sendmsg4", status.counters.looks[EGRESS_HOOK_SENDMSG4]},
              {"sendmsg6", status.counters.looks[EGRESS_HOOK_SENDMSG6]},
              {"sock_create", status.counters.looks[EGRESS_HOOK_CREATE]},
              {"packet", status.counters.looks[EGRESS_HOOK_PACKET]},
              {"unix", status.counters.looks[EGRESS_HOOK_UNIX]}}},
            {"dns", dns_json(status)},
            {"not_covered", not_covered(status)}};
}

json control_json(const Parts& parts) {
    const auto& control = parts.control;
    json users = json::array();
    for (const auto& [uid, connections] : control.shares().users()) {
        users.push_back({{"uid", uid}, {"connections", connections}});
    }
    return {{"connections", control.shares().total()},
            {"connections_max", Control::limits.most},
            {"turned_away", control.turned_away()},
            {"timed_out", control.timed_out()},
            {"users", users}};
}

/// The sockets that egressd listens on, and whether they can be found.
json sockets_json(const Parts& parts) {
    json out = json::array();
    for (const auto& socket : parts.socket_guard.sockets()) {
        out.push_back({{"path", socket.path},
                       {"listening", socket.listening},
                       {"remade", socket.remade},
                       {"last_error", socket.last_error}});
    }
    return out;
}

/// The lanes, which read the reports.
json lanes_json(const Parts& parts) {
    const auto counted = parts.receiver.lanes().counters();
    return {{"running", counted.running},
            {"busy", counted.busy},
            {"lost", counted.lost},
            {"given_up", counted.given_up},
            {"closed_idle", parts.receiver.counters().closed_idle}};
}

json users_json(const Parts& parts) {
    json users = json::array();
    for (const auto& user : parts.receiver.users()) {
        users.push_back({{"uid", user.uid},
                         {"connections", user.connections},
                         {"paused", user.paused},
                         {"lanes_lost", user.lanes_lost}});
    }
    return users;
}

/// Counts and blocks by rule name, port and protocol; the busiest first.
json services_json(const Parts& parts) {
    constexpr std::size_t most_told = 64;
    json services = json::array();
    for (const auto& one : parts.ledger.services().busiest(most_told)) {
        json service = {{"counting", one.counting},   {"blocked", one.blocked},
                        {"releasing", one.releasing}, {"failures", one.failures},
                        {"successes", one.successes}, {"blocks", one.blocks}};
        if (one.others) {
            service["others"] = true;
        } else {
            service["name"] = parts.ledger.name_text(one.name);
        }
        if (one.port != 0) {
            service["port"] = one.port;
        }
        if (one.protocol != 0) {
            service["protocol"] = protocol_name(one.protocol, "");
        }
        services.push_back(std::move(service));
    }
    return services;
}

} // namespace

json status_json(const Parts& parts) {
    const Ledger& ledger = parts.ledger;
    const Keeper& keeper = parts.keeper;
    const auto& table = ledger.table();
    return {{"version", EGRESS_VERSION},
            {"pid", getpid()},
            {"uptime", parts.clock.now() - parts.started},
            {"monitor", ledger.monitor()},
            {"rows", table.size()},
            {"rows_max", table.capacity()},
            {"counting", table.size() - ledger.blocked() - ledger.releasing()},
            {"blocked", ledger.blocked()},
            {"releasing", ledger.releasing()},
            {"not_in_force", ledger.not_in_force()},
            {"evicted", ledger.counters().evicted},
            {"services", services_json(parts)},
            {"reports", reports_json(parts)},
            {"refused", refused_json(parts)},
            {"helper", helper_json(parts)},
            {"store",
             {{"path", parts.database},
              {"pending", keeper.waiting()},
              {"commits", keeper.counters().commits},
              {"failures", keeper.counters().failures},
              {"damaged", keeper.store().damaged()},
              {"last_error", keeper.counters().last_error}}},
            {"rules", rules_json(parts)},
            {"egress", egress_json(parts)},
            {"control", control_json(parts)},
            {"sockets", sockets_json(parts)},
            {"lanes", lanes_json(parts)},
            {"users", users_json(parts)}};
}

namespace verbs {

void show_status(Parts& parts, const Request&, const Answer& answer) {
    answer.send(reply::good(status_json(parts)));
}

void show_metrics(Parts& parts, const Request&, const Answer& answer) {
    answer.send({200, metrics_text(parts), "text/plain; version=0.0.4"});
}

} // namespace verbs
} // namespace egress
