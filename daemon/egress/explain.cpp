#include "daemon/egress/explain.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <filesystem>

#include <fmt/format.h>
#include <netinet/in.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/address.h"
#include "daemon/base/boot.h"
#include "daemon/base/json_text.h"
#include "daemon/base/log.h"
#include "daemon/bpf/others.h"
#include "daemon/bpf/tables/destinations.h"
#include "daemon/bpf/tables/granted.h"
#include "daemon/bpf/tables/lockout.h"
#include "daemon/bpf/tables/native.h"
#include "daemon/bpf/unix_name.h"
#include "daemon/egress/event.h"
#include "daemon/egress/explained.h"
#include "daemon/policy/print/print.h"
#include "daemon/store/json.h"

namespace egress {

namespace {

using nlohmann::json;

constexpr std::size_t most_earlier = 20;
constexpr std::uint64_t second = 1'000'000'000;

/// The kernel's entry of a process. Inside a pid namespace our number of the process is not the
/// kernel's; the start time then identifies it.
std::optional<egress_process> entry_of(const Question& question, const bpf::Loader& loader) {
    const auto ticks = static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
    const auto same = [&](const egress_process& process) {
        return !question.started || process.started / (second / ticks) == *question.started;
    };
    auto process = loader.process(question.pid);
    if ((process && same(*process)) || !question.started) {
        return process;
    }
    std::optional<egress_process> found;
    std::size_t count = 0;
    loader.each_process([&](const egress_process& each) {
        if (same(each) && (question.command.empty() || question.command == each.command)) {
            found = each;
            ++count;
        }
    });
    return count == 1 ? found : std::nullopt;
}

/// The entry that exec would record for the program.
Result<egress_process> imagined(const Question& question, const bpf::Loader& loader) {
    std::error_code code;
    const auto real = std::filesystem::canonical(question.exe, code);
    const std::string command = question.command.empty()
                                    ? question.exe.substr(question.exe.rfind('/') + 1)
                                    : question.command;
    std::vector<bpf::Insider> insiders(1);
    insiders[0].path = code ? question.exe : real.string();
    for (const auto& parent : question.parents) {
        insiders.emplace_back().path = parent;
        insiders.back().descends = true;
    }
    if (auto named = bpf::name_programs(insiders, [&] { return loader.name_files(); }); !named) {
        return std::unexpected(named.error());
    }
    egress_process process = insiders[0].process;
    command.copy(process.command, sizeof process.command - 1);
    if (question.container.value_or(false)) {
        process.flags &= ~static_cast<std::uint32_t>(EGRESS_PROCESS_HOST_PATH);
    }
    return process;
}

bool in_container(const Question& question, const bpf::Loader& loader) {
    if (question.container) {
        return *question.container;
    }
    if (bpf::is_in_container(question.cgroup)) {
        return true;
    }
    return question.pid_space && question.pid_space != loader.settings().pid_namespace;
}

bool in(const egress_vector& set, std::size_t rule) {
    return (set.words[rule / 64] >> rule % 64 & 1) != 0;
}

/// How a dimension is called; "program" may stand for the ancestry that the line asks for.
const char* name_of(const char* label, const policy::EgressRule& rule) {
    if (label != std::string_view("program")) {
        return label;
    }
    const bool program = rule.program.kind != policy::Program::Kind::any;
    const bool lineage = !rule.options.parent.empty() || !rule.options.under.empty();
    return !lineage ? "program" : program ? "program or ancestry" : "ancestry";
}

/// Whether each dimension of one rule matches, in the order of the columns.
std::vector<std::pair<const char*, bool>> parts_of(const bpf::Decision& decision,
                                                   const policy::EgressRule& rule, std::size_t i,
                                                   bool timely) {
#define EGRESS_PART(dimension, label) {name_of(label, rule), in(decision.dimension, i)},
    std::vector<std::pair<const char*, bool>> parts = {EGRESS_DIMENSIONS(EGRESS_PART)};
#undef EGRESS_PART
    // A destination matches by address and by name: one of the two is every line.
    for (auto part = parts.begin(); part + 1 != parts.end();) {
        const auto next = part + 1;
        if (std::string_view(part->first) == next->first) {
            part->second = part->second && next->second;
            parts.erase(next);
        } else {
            ++part;
        }
    }
    parts.emplace_back("time", timely);
    return parts;
}

const char* action_of(const policy::EgressRule& rule, bool monitor) {
    if (rule.options.audit) {
        return "MONITOR";
    }
    return rule.verdict.kind == policy::Verdict::Kind::allow ? "ALLOWED"
           : monitor                                         ? "MONITOR"
                                                             : "BLOCKED";
}

json process_json(const Question& question, const egress_process& process,
                  const bpf::Loader& loader, const egress_flow& flow) {
    json out = {{"uid", flow.uid}, {"gid", flow.gid}, {"container", flow.in_container != 0}};
    const std::string path(process.path.path, strnlen(process.path.path, sizeof process.path.path));
    if (question.pid != 0) {
        out["pid"] = question.pid;
    }
    if (!path.empty()) {
        out["exe"] = path;
    }
    out["comm"] = std::string(process.command, strnlen(process.command, sizeof process.command));
    if (!question.cgroup.empty()) {
        out["cgroup"] = question.cgroup;
    }
    json ancestors = json::array();
    for (std::uint32_t i = 0; i < process.ancestors_used && i < EGRESS_MAX_ANCESTORS; ++i) {
        ancestors.push_back(i < question.parents.size() ? question.parents[i]
                                                        : loader.path_of(process.ancestors[i]));
    }
    out["ancestors"] = std::move(ancestors);
    return out;
}

json earlier_json(const bpf::Decision& decision, const policy::Policy& policy, std::size_t end) {
    json earlier = json::array();
    for (std::size_t i = 0; i < std::min(end, most_earlier); ++i) {
        const auto& rule = policy.egress[i];
        json failed = json::array();
        for (const auto& [name, holds] : parts_of(decision, rule, i, true)) {
            if (!holds) {
                failed.push_back(name);
            }
        }
        if (failed.empty()) {
            failed.push_back("time"); // everything else matches, and yet it did not decide
        }
        earlier.push_back(
            {{"rule", rule.place.text()}, {"text", policy::print(rule)}, {"because", failed}});
    }
    return earlier;
}

/// A grant, with the name that was asked for and for how long it holds.
json grant_json(const bpf::Granted& granted, const AskedNames& asked, std::uint64_t now) {
    const auto left = (granted.until - now) / second;
    json out = {{"left", left},
                {"until", store::iso_time(std::time(nullptr) + static_cast<std::int64_t>(left))}};
    if (!granted.name.empty()) {
        out["name"] = granted.name;
    }
    if (const auto name = asked.find(granted.address, granted.key)) {
        out["asked"] = *name;
    }
    return out;
}

/// What [dns] "others" and "queries listed" make of what the lines say, as egress_weigh_others()
/// does in the hooks.
void weigh_others(json& out, const bpf::Tables& tables, const egress_flow& flow, std::uint32_t rule,
                  const std::vector<Endpoint>& resolvers, bool monitor) {
    const auto flags = rule < tables.base->rules_used ? tables.base->rules[rule].flags : 0;
    const auto approves = [&, address = *Address::from_bytes(flow.address)](std::uint16_t port) {
        return std::ranges::find(resolvers, Endpoint{address, port}) != resolvers.end();
    };
    if (out["action"] == "BLOCKED" || egress_may_be_others(&flow, flags) == 0 ||
        approves(flow.port)) {
        return;
    }
    const bool beside = approves(EGRESS_DNS_PORT);
    const bool sealed = beside && tables.base->lists_questions != 0;
    if (!sealed && (beside || tables.base->others == EGRESS_OTHERS_ALLOWED)) {
        return;
    }
    const bool refused = sealed || tables.base->others == EGRESS_OTHERS_REFUSED;
    if (sealed) {
        out["queries"] = "listed";
    } else {
        out["others"] = refused ? "refuse" : "alarm";
    }
    out["action"] = !refused ? "ALLOWED" : monitor ? "MONITOR" : "BLOCKED";
}

/// Where a path means something else than on the host, no line names it.
void put_socket(egress_flow& flow, const Question& question, const bpf::Loader& loader,
                const bpf::Tables& tables) {
    const auto name = bpf::unix_name(question.socket);
    const bool sees_host = question.mount_space
                               ? *question.mount_space == loader.settings().mount_namespace
                               : flow.in_container == 0;
    const bool proven = name.abstract != 0 || sees_host;
    egress_put_unix(flow.address, egress_unix_hash(tables.base->names_key, &name), proven ? 1 : 0);
}

} // namespace

json explained::verdict(const Scene& scene, const Address& address) {
    egress_flow flow = scene.flow;
    std::ranges::copy(address.raw(), flow.address);
    const auto& [question, loader, policy, tables, answers] = scene.asked;
    const auto settings = loader.settings();
    const auto* const grants = loader.grants().all();
    const auto decision = bpf::native_decide(tables, scene.process, flow, question.cgroup,
                                             scene.now, settings.week_at_boot, grants);
    if (decision.rule == EGRESS_BROKEN) {
        return {};
    }
    const bool matched = decision.rule < policy.egress.size();
    json out = {{"action", "ALLOWED"}};
    if (tables.base->has_names != 0) {
        const std::array<std::uint64_t, 2> key = {tables.base->names_key[0],
                                                  tables.base->names_key[1]};
        out["names"] = json::array();
        for (const auto& each : bpf::granted_to(policy, key, grants, address, scene.now)) {
            auto grant = grant_json(each, answers.asked, scene.now);
            if (each.key == decision.named) {
                out["by"] = grant;
            }
            out["names"].push_back(std::move(grant));
        }
    }
    const std::size_t end = matched ? decision.rule : policy.egress.size();
    if (matched) {
        const auto& rule = policy.egress[decision.rule];
        out["action"] = action_of(rule, settings.monitor != 0);
        out["verdict"] = policy::verdict_name(rule.verdict.kind);
        out["rule"] = rule.place.text();
        out["text"] = policy::print(rule);
        json parts = json::object();
        for (const auto& [name, holds] : parts_of(decision, rule, decision.rule, true)) {
            parts[name] = holds;
        }
        out["dimensions"] = std::move(parts);
    }
    weigh_others(out, tables, flow, decision.rule, answers.resolvers, settings.monitor != 0);
    out["earlier"] = earlier_json(decision, policy, end);
    out["earlier_left_off"] = end - std::min(end, most_earlier);
    return out;
}

Reply explain(const Question& question, const bpf::Loader& loader, const policy::Policy& policy,
              const bpf::Tables& tables, const KnownAnswers& answers) {
    std::optional<egress_process> known;
    if (question.pid != 0) {
        known = entry_of(question, loader);
    } else if (auto made = imagined(question, loader)) {
        known = *made;
    } else {
        return {Answered::failed, made.error().text};
    }
    if (!known) {
        return {Answered::no_process,
                fmt::format("the kernel side knows no process {}", question.pid)};
    }
    explained::Scene scene{
        {question, loader, policy, tables, answers}, *known, question.flow, boot_nanoseconds()};
    scene.flow.in_container = in_container(question, loader) ? 1 : 0;
    if (!question.socket.empty()) {
        put_socket(scene.flow, question, loader, tables);
    }
    json out = question.name.empty()
                   ? explained::verdict(scene, *Address::from_bytes(scene.flow.address))
                   : explained::name(scene);
    if (out.is_null()) {
        return {Answered::failed, "the kernel's tables are inconsistent"};
    }
    out["generation"] = tables.base->generation;
    out["process"] = process_json(question, *known, loader, scene.flow);
    return {Answered::yes, json_text(out)};
}

} // namespace egress
