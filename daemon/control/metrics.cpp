#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "daemon/control/status.h"
#include "egress-paths.h"

namespace egress {

namespace {

using nlohmann::json;

/// Writes families in Prometheus' text format. Names and labels are ours, never remote text.
class Metrics {
  public:
    void gauge(std::string_view name, std::string_view help, const json& value) {
        begin(name, help, "gauge");
        put("egress_{} {}\n", name, value.dump());
    }
    void counters(std::string_view name, std::string_view help, std::string_view label,
                  const json& values) {
        family(name, help, label, values, "counter");
    }
    void gauges(std::string_view name, std::string_view help, std::string_view label,
                const json& values) {
        family(name, help, label, values, "gauge");
    }
    std::string take() { return std::move(out_); }

  private:
    std::string out_;

    template <typename... Values>
    void put(fmt::format_string<Values...> format, Values&&... values) {
        fmt::format_to(std::back_inserter(out_), format, std::forward<Values>(values)...);
    }
    void begin(std::string_view name, std::string_view help, std::string_view type) {
        put("# HELP egress_{} {}\n# TYPE egress_{} {}\n", name, help, name, type);
    }
    void family(std::string_view name, std::string_view help, std::string_view label,
                const json& values, std::string_view type) {
        begin(name, help, type);
        for (const auto& [key, value] : values.items()) {
            put("egress_{}{{{}=\"{}\"}} {}\n", name, label, key, value.dump());
        }
    }
};

/// One member of each of the objects in `from`.
json each(const json& from, const char* member) {
    json out = json::object();
    for (const auto& [key, value] : from.items()) {
        out[key] = value[member];
    }
    return out;
}

void put_in(Metrics& out, const json& status) {
    out.gauge("rows", "Rows in the table.", status["rows"]);
    out.gauge("blocked", "Rows whose block is wanted.", status["blocked"]);
    out.gauge("not_in_force", "Blocks that the firewall has not confirmed.",
              status["not_in_force"]);
    out.gauge("helper_pending", "Requests that the helper has not answered.",
              status["helper"]["pending"]);
    out.counters("reports_total", "Reports by what became of them.", "kind", status["reports"]);
    out.counters("refused_total", "Messages that were no reports, by reason.", "kind",
                 status["refused"]);
    out.counters("helper_total", "Dealings with the firewall helper.", "kind",
                 {{"requests", status["helper"]["requests"]},
                  {"errors", status["helper"]["errors"]},
                  {"restarts", status["helper"]["restarts"]}});
    const auto& store = status["store"];
    out.gauge("store_pending", "Changes that are not durable yet.", store["pending"]);
    out.gauge("store_damaged", "Rows of the database that are set aside because they were damaged.",
              store["damaged"]);
    out.counters("store_total", "Commits of the database.", "kind",
                 {{"commits", store["commits"]}, {"failures", store["failures"]}});
    out.counters("control_total", "Connections to the control socket that were ended.", "kind",
                 {{"turned_away", status["control"]["turned_away"]},
                  {"timed_out", status["control"]["timed_out"]}});
    const auto& rules = status["rules"];
    const bool trial = rules.contains("trial");
    out.gauge("trial", "Whether rules are in force for a time only.", trial ? 1 : 0);
    out.gauge("trial_remaining_seconds", "Until those rules go back by themselves.",
              trial ? rules["trial"]["seconds"] : json(0));
}

/// The states of the kernel side: 1 for the one that it is in.
json states(const json& now) {
    using State = Enforcer::Status::State;
    json out = json::object();
    for (const auto state :
         {State::off, State::starting, State::in_force, State::failed, State::detached}) {
        const auto text = Enforcer::text(state);
        out[std::string(text)] = now == text ? 1 : 0;
    }
    return out;
}

/// Destinations by name; nothing if no line needs answers.
void put_names(Metrics& out, const json& dns) {
    if (dns.is_null()) {
        return;
    }
    out.gauge("dns_resolvers", "Resolvers whose answers count.", dns["resolvers"].size());
    out.gauge("dns_grants", "Addresses granted to names.", dns["grants"]);
    out.gauge("dns_grants_max", "Room for them.", dns["grants_max"]);
    out.gauge("dns_hidden", "Causes that keep answers from the hooks; the status names them.",
              dns["hidden"].size());
    out.counters("dns_total", "Questions and answers that were read, by what became of them.",
                 "kind", dns["outcomes"]);
}

void put_out(Metrics& out, const json& egress, const EventLog& log) {
    const bool in_force = egress["state"] == Enforcer::text(Enforcer::Status::State::in_force);
    out.gauge("generation", "Number of the rules of [egress] in force in the kernel; 0: none.",
              egress["generation"]);
    out.gauge("enforced", "Whether the kernel refuses by rules of [egress].",
              in_force && egress["monitor"] == false ? 1 : 0);
    out.gauges("state", "State of [egress]: 1 for the one that it is in.", "state",
               states(egress["state"]));
    json hooks = json::object();
    for (const auto& [hook, state] : egress["hooks"].items()) {
        hooks[hook] = state == "attached" ? 1 : 0;
    }
    out.gauges("hook_attached", "Whether the kernel runs this hook.", "hook", hooks);
    put_names(out, egress["dns"]);
    const auto& events = egress["events"];
    out.counters("events_total", "Events of the hooks, by what became of them.", "kind",
                 {{"made", events["made"]},
                  {"read", events["read"]},
                  {"lost", events["lost"]},
                  {"missed", events["missed"]}});
    out.gauge("events_waiting", "Events that egressd has not read yet.", events["waiting"]);
    out.counters("losses_total", "What the kernel side could not hold or know, by reason.",
                 "reason", each(egress["losses"], "count"));
    out.counters("checks_total", "Checks by hook.", "hook", egress["looks"]);
    json verdicts = json::object();
    for (std::size_t kind = 0; kind < EventLog::kinds; ++kind) {
        verdicts[EventLog::kind_names[kind]] =
            log.counters(static_cast<EventLog::Kind>(kind)).checks;
    }
    out.counters("verdicts_total",
                 "Checks that events reported, by verdict; those that raised an alarm apart.",
                 "kind", verdicts);
    out.counters("log_summed_up_total", "Events that the log reports in summaries only.", "kind",
                 each(egress["log"], "summed_up"));
}

} // namespace

std::string metrics_text(const Parts& parts) {
    const json status = status_json(parts);
    Metrics out;
    out.gauges("build_info", "1, with the version of egressd.", "version", {{EGRESS_VERSION, 1}});
    put_in(out, status);
    put_out(out, status["egress"], parts.event_log);
    return out.take();
}

} // namespace egress
