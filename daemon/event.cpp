#include "daemon/event.h"

#include <algorithm>
#include <cstring>
#include <fstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/address.h"
#include "daemon/bpf/objects.h"
#include "daemon/store/json.h"

namespace egress {

namespace {

using nlohmann::json;
using Names = std::vector<std::pair<std::uint32_t, std::string>>;

/// "name:x:number:..." lines, as of passwd(5) and group(5).
Names read_names(const char* path) {
    Names out;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const auto name = line.find(':');
        const auto password = name == std::string::npos ? name : line.find(':', name + 1);
        if (password == std::string::npos || line[0] == '#') {
            continue;
        }
        char* end = nullptr;
        const auto number = std::strtoul(line.c_str() + password + 1, &end, 10);
        if (end != line.c_str() + password + 1) {
            out.emplace_back(static_cast<std::uint32_t>(number), line.substr(0, name));
        }
    }
    std::ranges::sort(out);
    return out;
}

const std::string* find(const Names& names, std::uint32_t number) {
    const auto at =
        std::ranges::lower_bound(names, number, {}, [](const auto& entry) { return entry.first; });
    return at != names.end() && at->first == number ? &at->second : nullptr;
}

template <std::size_t size>
std::string text_of(const char (&field)[size]) {
    return {field, strnlen(field, size)};
}

std::string protocol_text(std::uint8_t protocol) {
    switch (protocol) {
    case IPPROTO_TCP:
        return "tcp";
    case IPPROTO_UDP:
        return "udp";
    default:
        return std::to_string(protocol);
    }
}

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

std::string reason_text(const egress_event& event, const policy::EgressRule* rule) {
    if (event.rule == EGRESS_CANARY) {
        return "selftest";
    }
    if (event.rule == EGRESS_UNREAD) {
        return "a source route that cannot be judged";
    }
    if (event.rule == EGRESS_CLOSED) {
        return "no line allows a family whose packets cannot be judged";
    }
    if (event.rule == EGRESS_UNMATCHED) {
        return "no rule matches";
    }
    if (rule == nullptr) {
        return "a rule of an earlier policy";
    }
    const bool refused = rule->verdict.kind != policy::Verdict::Kind::allow;
    std::string text = rule->verdict.kind == policy::Verdict::Kind::reject ? "reject"
                       : refused                                           ? "deny"
                                                                           : "allow";
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

void add_flow(json& out, const egress_event& event) {
    const auto& flow = event.flow;
    out["type"] = type_text(flow.type);
    out["protocol"] = protocol_text(flow.protocol);
    if (event.hook == EGRESS_HOOK_CREATE) {
        return; // a socket goes nowhere yet
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
        return; // it has ended: nobody knows any more from whom it came
    }
    json ancestors = json::array();
    for (std::uint32_t i = 0;
         loader != nullptr && i < event.ancestors_used && i < EGRESS_MAX_ANCESTORS; ++i) {
        ancestors.push_back(loader->path_of(event.ancestors[i]));
    }
    out["ancestors"] = std::move(ancestors);
}

} // namespace

void OwnerNames::load() {
    users_ = read_names("/etc/passwd");
    groups_ = read_names("/etc/group");
}

const std::string* OwnerNames::user(std::uint32_t uid) const {
    return find(users_, uid);
}

const std::string* OwnerNames::group(std::uint32_t gid) const {
    return find(groups_, gid);
}

std::string_view action_text(const egress_event& event) {
    return event.action == EGRESS_EVENT_BLOCKED   ? "BLOCKED"
           : event.action == EGRESS_EVENT_ALLOWED ? "ALLOWED"
                                                  : "MONITOR";
}

json event_json(const egress_event& event, const policy::EgressRule* rule, const OwnerNames& names,
                const bpf::Loader* loader, const Clock& clock) {
    json out = {{"time", time_text(event.time, clock)},
                {"action", action_text(event)},
                {"reason", reason_text(event, rule)},
                {"uid", event.flow.uid},
                {"gid", event.flow.gid},
                {"container", event.flow.in_container != 0},
                {"count", event.count},
                {"seq", event.sequence},
                {"generation", event.generation}};
    if (event.hostname[0] != '\0') {
        out["hostname"] = text_of(event.hostname);
    }
    if (rule != nullptr) {
        out["rule"] = rule->place.text();
    }
    if (const auto* user = names.user(event.flow.uid)) {
        out["user"] = *user;
    }
    if (const auto* group = names.group(event.flow.gid)) {
        out["group"] = *group;
    }
    if (auto cgroup = bpf::path_of_cgroup(event.cgroup); !cgroup.empty()) {
        out["cgroup"] = std::move(cgroup);
    }
    add_process(out, event, loader);
    add_flow(out, event);
    return out;
}

} // namespace egress
