#include "daemon/egress/event.h"

#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/address.h"
#include "daemon/base/protocol.h"
#include "daemon/bpf/tables/host.h"
#include "daemon/store/json.h"

namespace egress {

namespace {

using nlohmann::json;

template <std::size_t size>
std::string text_of(const char (&field)[size]) {
    return {field, strnlen(field, size)};
}

std::string reason_text(const egress_event& event, const policy::EgressRule* rule) {
    if (event.rule == EGRESS_CANARY) {
        return "selftest";
    }
    if (event.rule == EGRESS_UNREAD) {
        return "a source route that cannot be judged";
    }
    if (event.rule == EGRESS_FORGED) {
        return "a source that is another user's";
    }
    if (event.rule == EGRESS_CLOSED) {
        return "no line allows a family whose packets cannot be judged";
    }
    if (event.rule == EGRESS_UNLISTED) {
        return "a question for a name that no line of the process names";
    }
    if (event.rule == EGRESS_OTHERS) {
        return "a resolver that is not approved";
    }
    if (event.rule == EGRESS_SEALED) {
        return "questions to a resolver over TLS, which cannot be read";
    }
    if (event.rule == EGRESS_NO_JOB) {
        return "of a run that is over, or of a process that no hook knows while there are runs";
    }
    if (event.rule == EGRESS_UNMATCHED) {
        return "no rule matches";
    }
    if (rule == nullptr && event.rule >= EGRESS_RULE_OF_JOB) {
        return "a rule of the run"; // which an egressd before has begun
    }
    if (rule == nullptr) {
        return "a rule of an earlier policy";
    }
    const bool refused = rule->verdict.kind != policy::Verdict::Kind::allow;
    std::string text(policy::verdict_name(rule->verdict.kind));
    if ((event.rule_flags & EGRESS_RULE_AUDIT) != 0) {
        text += ", audit";
    } else if (refused && event.action == EGRESS_EVENT_MONITOR) {
        text += ", monitoring only";
    }
    return text;
}

std::string time_text(std::uint64_t boot, const Clock& clock) {
    constexpr std::uint64_t second = 1'000'000'000;
    std::string text = store::iso_time(clock.to_wall(static_cast<Moment>(boot / second)));
    text.insert(text.size() - 1, fmt::format(".{:03}", boot % second / 1'000'000));
    return text;
}

void add_flow(json& out, const egress_event& event, const bpf::Loader* loader) {
    const auto& flow = event.flow;
    out["type"] = type_text(flow.type);
    if (event.hook == EGRESS_HOOK_UNIX) {
        out["protocol"] = "unix";
        out["family"] = "unix";
        if (loader != nullptr) {
            out["addr"] = loader->jobs().socket_of(flow);
        }
        return;
    }
    out["protocol"] = protocol_name(flow.protocol);
    if (event.hook == EGRESS_HOOK_CREATE) {
        return; // a new socket has no destination yet
    }
    const auto address = Address::from_bytes(flow.address);
    out["family"] = address->is_v4() ? "ipv4" : "ipv6";
    out["addr"] = address->text();
    out["port"] = flow.port;
}

void add_process(json& out, const egress_event& event, const bpf::Loader* loader) {
    out["pid"] = event.pid;
    if (event.comm[0] != '\0') {
        out["comm"] = text_of(event.comm);
    }
    if (event.known == 0) {
        return;
    }
    out["ppid"] = event.ppid;
    if (event.path[0] != '\0') {
        out["exe"] = text_of(event.path);
    }
    if (event.known == EGRESS_KNOWN_PROGRAM) {
        return; // it has exited: its ancestors are unknown
    }
    json ancestors = json::array();
    for (std::uint32_t i = 0;
         loader != nullptr && i < event.ancestors_used && i < EGRESS_MAX_ANCESTORS; ++i) {
        ancestors.push_back(loader->path_of(event.ancestors[i]));
    }
    out["ancestors"] = std::move(ancestors);
}

} // namespace

std::string type_text(std::uint8_t type) {
    switch (type) {
    case SOCK_STREAM:
        return "stream";
    case SOCK_DGRAM:
        return "dgram";
    case SOCK_RAW:
        return "raw";
    default:
        return std::to_string(type);
    }
}

void OwnerNames::load() {
    users_ = Ids("/etc/passwd");
    groups_ = Ids("/etc/group");
}

std::string_view action_text(const egress_event& event) {
    return event.action == EGRESS_EVENT_BLOCKED   ? "BLOCKED"
           : event.action == EGRESS_EVENT_ALLOWED ? "ALLOWED"
                                                  : "MONITOR";
}

json event_json(const egress_event& event, const policy::EgressRule* rule,
                const std::string& domain, const OwnerNames& names, const bpf::Loader* loader,
                const Clock& clock) {
    json out = {{"time", time_text(event.time, clock)},
                {"action", action_text(event)},
                {"reason", reason_text(event, rule)},
                {"uid", event.flow.uid},
                {"gid", event.flow.gid},
                {"container", event.flow.in_container != 0},
                {"count", event.count},
                {"seq", event.sequence},
                {"generation", event.generation}};
    if (event.job != 0 && event.rule != EGRESS_NO_JOB) {
        out["run"] = event.job;
    }
    if (event.hostname[0] != '\0') {
        out["hostname"] = text_of(event.hostname);
    }
    if (rule != nullptr) {
        out["rule"] = rule->place.text();
    }
    if (!domain.empty()) {
        out["domain"] = domain;
    }
    if (const auto* user = names.users().name(event.flow.uid)) {
        out["user"] = *user;
    }
    if (const auto* group = names.groups().name(event.flow.gid)) {
        out["group"] = *group;
    }
    if (auto cgroup = bpf::path_of_cgroup(event.cgroup); !cgroup.empty()) {
        out["cgroup"] = std::move(cgroup);
    }
    add_process(out, event, loader);
    add_flow(out, event, loader);
    return out;
}

store::EventRow event_row(const egress_event& event, const policy::EgressRule* rule,
                          const Clock& clock) {
    using Row = store::EventRow;
    constexpr std::uint64_t second = 1'000'000'000;
    Row row;
    row.uid = event.flow.uid;
    row.gid = event.flow.gid;
    row.action = event.action == EGRESS_EVENT_BLOCKED   ? Row::Action::blocked
                 : event.action == EGRESS_EVENT_ALLOWED ? Row::Action::allowed
                                                        : Row::Action::monitored;
    row.flags = event.flow.in_container != 0 ? Row::container : 0;
    if (rule != nullptr && rule->verdict.kind == policy::Verdict::Kind::allow &&
        event.action == EGRESS_EVENT_MONITOR) {
        row.flags |= Row::audited;
    }
    row.type = event.flow.type;
    row.protocol = event.flow.protocol;
    if (event.hook != EGRESS_HOOK_CREATE) {
        row.address = Address::from_bytes(event.flow.address);
        row.port = event.flow.port;
    }
    row.program.assign(event.path, strnlen(event.path, sizeof event.path));
    if (event.known == 0 || row.program.empty()) {
        row.flags |= Row::nameless;
        row.program.assign(event.comm, strnlen(event.comm, sizeof event.comm));
    }
    row.rule = rule != nullptr ? rule->place.text() : "";
    row.count = event.count;
    row.first = row.last =
        static_cast<std::uint32_t>(clock.to_wall(static_cast<Moment>(event.time / second)));
    return row;
}

} // namespace egress
