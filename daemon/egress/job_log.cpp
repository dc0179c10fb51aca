#include "daemon/egress/job_log.h"

#include <algorithm>
#include <cstring>

#include "daemon/base/address.h"
#include "daemon/base/protocol.h"
#include "daemon/egress/event.h"

namespace egress {

namespace {

using nlohmann::json;

bool same(const egress_flow& a, const egress_flow& b) {
    return std::memcmp(a.address, b.address, sizeof a.address) == 0 && a.port == b.port &&
           a.type == b.type && a.protocol == b.protocol;
}

/// Whether it is a refusal, or would be one.
bool refuses(const egress_event& event, const policy::EgressRule* rule) {
    return event.action == EGRESS_EVENT_BLOCKED ||
           (event.action == EGRESS_EVENT_MONITOR && rule != nullptr &&
            rule->verdict.kind != policy::Verdict::Kind::allow);
}

} // namespace

JobLog::Run* JobLog::find(std::uint32_t id) {
    const auto found = std::ranges::find(runs_, id, &Run::id);
    return found == runs_.end() ? nullptr : &*found;
}

const JobLog::Run* JobLog::find(std::uint32_t id) const {
    return const_cast<JobLog*>(this)->find(id);
}

JobLog::Run& JobLog::add(std::uint32_t id, std::uint32_t uid, bool learns) {
    const auto over = [](const Run& run) { return run.processes == 0; };
    if (static_cast<std::size_t>(std::ranges::count_if(runs_, over)) >= most_over) {
        runs_.erase(std::ranges::find_if(runs_, over));
    }
    Run run;
    run.id = id;
    run.uid = uid;
    run.learns = learns;
    return runs_.emplace_back(std::move(run));
}

void JobLog::begin(std::uint32_t id, std::uint32_t uid, bool learns,
                   std::vector<policy::EgressRule> rules) {
    add(id, uid, learns).rules = std::move(rules);
}

const policy::EgressRule* JobLog::rule(const egress_event& event) const {
    const auto* const run = find(event.job);
    const auto index = event.rule & ~EGRESS_RULE_OF_JOB;
    return run != nullptr && index < run->rules.size() ? &run->rules[index] : nullptr;
}

void JobLog::note(const egress_event& event, const std::string& name) {
    auto* const run = find(event.job);
    const bool of_job = is_of_job(event.rule);
    if (run == nullptr || !refuses(event, of_job ? rule(event) : nullptr)) {
        return;
    }
    auto place = std::ranges::find_if(
        run->destinations, [&](const Destination& each) { return same(each.flow, event.flow); });
    if (place == run->destinations.end()) {
        if (run->destinations.size() >= most_destinations) {
            run->more += event.count;
            return;
        }
        const auto* const by = of_job ? rule(event) : nullptr;
        run->destinations.push_back({event.flow,
                                     event.hook,
                                     name,
                                     {event.path, strnlen(event.path, sizeof event.path)},
                                     by == nullptr ? std::string() : by->place.text(),
                                     0});
        place = run->destinations.end() - 1;
    }
    place->count += event.count;
}

void JobLog::update(const bpf::Jobs& jobs) {
    for (auto& run : runs_) {
        const auto job = run.processes == 0 ? std::nullopt : jobs.find(run.id);
        if (job) {
            run.refused = job->refused;
        }
        run.processes = job ? job->processes : 0;
    }
    jobs.each([this](const egress_job& job) { // of an egressd before
        if (job.processes > 0 && find(job.id) == nullptr) {
            auto& run = add(job.id, job.uid, (job.flags & EGRESS_JOB_LEARNS) != 0);
            run.refused = job.refused;
            run.processes = job.processes;
        }
    });
}

std::optional<json> JobLog::report(std::uint32_t id, std::uint32_t uid) const {
    const auto* const run = find(id);
    if (run == nullptr || (uid != 0 && uid != run->uid)) {
        return std::nullopt;
    }
    json destinations = json::array();
    for (const auto& each : run->destinations) {
        const bool is_unix = each.hook == EGRESS_HOOK_UNIX;
        json one = {{"type", type_text(each.flow.type)},
                    {"protocol", is_unix ? "unix" : protocol_name(each.flow.protocol)},
                    {"count", each.count}};
        if (is_unix) {
            one["addr"] = each.name;
        } else if (each.hook != EGRESS_HOOK_CREATE) {
            one["addr"] = Address::from_bytes(each.flow.address)->text();
            one["port"] = each.flow.port;
        }
        if (!is_unix && !each.name.empty()) {
            one["domain"] = each.name;
        }
        if (!each.program.empty()) {
            one["exe"] = each.program;
        }
        if (!each.rule.empty()) {
            one["rule"] = each.rule;
        }
        destinations.push_back(std::move(one));
    }
    return json{{"run", run->id},
                {"uid", run->uid},
                {"learn", run->learns},
                {"processes", run->processes},
                {"refused", run->refused},
                {"more", run->more},
                {"destinations", std::move(destinations)}};
}

} // namespace egress
