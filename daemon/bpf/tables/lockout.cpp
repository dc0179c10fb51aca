#include "daemon/bpf/tables/lockout.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/boot.h"
#include "daemon/base/log.h"
#include "daemon/base/resolv_conf.h"
#include "daemon/base/week.h"
#include "daemon/bpf/tables/destinations.h"
#include "daemon/bpf/tables/native.h"
#include "daemon/bpf/tables/places.h"
#include "daemon/bpf/tables/world.h"
#include "daemon/bpf/unix_name.h"
#include "daemon/policy/print/print.h"
#include "egress-paths.h"

namespace egress::bpf {

namespace {

constexpr std::uint16_t dns = 53;
constexpr const char* resolv_conf = "/etc/resolv.conf";

void set_program(Insider& insider, const std::string& path, const std::string& command) {
    insider.path = path;
    command.copy(insider.process.command, sizeof insider.process.command - 1);
}

void set_text(egress_tree& tree, std::uint32_t device, const std::string& path) {
    tree = {EGRESS_DEVICE_BITS, device, {}};
    if (path.size() < sizeof tree.path) {
        path.copy(tree.path, path.size());
        tree.bits += static_cast<std::uint32_t>((path.size() + 1) * 8);
    }
}

/// Fields of /proc/PID/status.
struct Facts {
    std::string command;
    int parent = 0;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
};

Facts facts_of(const std::string& directory) {
    Facts facts;
    std::ifstream file(directory + "/status");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string key;
        words >> key;
        if (key == "Name:") {
            words >> facts.command;
        } else if (key == "PPid:") {
            words >> facts.parent;
        } else if (key == "Uid:") {
            words >> facts.uid;
        } else if (key == "Gid:") {
            words >> facts.gid;
        }
    }
    return facts;
}

std::string cgroup_of(const std::string& directory) {
    std::ifstream file(directory + "/cgroup");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("0::/")) {
            return line.substr(3);
        }
    }
    return "/";
}

egress_flow flow_of(const Insider& insider, const Address& address, bool tcp) {
    egress_flow flow{};
    std::ranges::copy(address.raw(), flow.address);
    flow.port = dns;
    flow.type = tcp ? SOCK_STREAM : SOCK_DGRAM;
    flow.protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
    flow.uid = insider.uid;
    flow.gid = insider.gid;
    return flow;
}

bool is_refused(const policy::EgressRule& rule) {
    return rule.verdict.kind != policy::Verdict::Kind::allow && !rule.options.audit;
}

egress_flow flow_to(const Insider& insider, const Tables& tables, const std::string& socket) {
    egress_flow flow{};
    const auto name = unix_name(socket);
    egress_put_unix(flow.address, egress_unix_hash(tables.base->names_key, &name), 1);
    flow.type = EGRESS_TYPE_UNIX;
    flow.protocol = SOCK_STREAM;
    flow.uid = insider.uid;
    flow.gid = insider.gid;
    return flow;
}

std::string shown(const Address& address) {
    return address.is_v4() ? address.text() : "[" + address.text() + "]";
}

/// Lines that refuse the insider the sockets of the programs with which to mend the rules.
void find_socket_lockouts(const policy::Policy& policy, const Tables& tables,
                          const Insider& insider, std::uint64_t now, std::uint64_t week_at_boot,
                          std::vector<policy::Diagnostic>& out) {
    constexpr std::pair<const char*, const char*> needed[] = {
        {"egressctl", EGRESS_CONTROL_SOCKET}, {"systemctl", "/run/systemd/private"}};
    for (const auto& [program, socket] : needed) {
        const auto found = native_decide(tables, insider.process, flow_to(insider, tables, socket),
                                         insider.cgroup, now, week_at_boot);
        if (found.rule < policy.egress.size() && is_refused(policy.egress[found.rule])) {
            out.push_back({policy::Diagnostic::Severity::warning, policy.egress[found.rule].place,
                           fmt::format("lockout: the line refuses {} to {} (uid {})", program,
                                       insider.name, insider.uid),
                           fmt::format("\"unix:{} * * * * allow\" can stand before it", socket)});
        }
    }
}

} // namespace

Insider root_shell() {
    Insider out;
    std::error_code code;
    const auto shell = std::filesystem::canonical("/bin/sh", code);
    out.name = "a root shell";
    set_program(out, code ? "/bin/sh" : shell.string(), "sh");
    return out;
}

std::vector<Insider> shells_of(const Asker& asker) {
    std::vector<Insider> out = {root_shell()};
    if (asker.uid != 0) {
        auto own = root_shell();
        own.name = "a shell of the asker";
        own.uid = asker.uid;
        own.gid = asker.gid;
        out.push_back(std::move(own));
    }
    return out;
}

std::vector<Insider> own_ancestry() {
    std::vector<Insider> out;
    // The numbers are those of /proc, which may differ from our pid namespace.
    for (std::string pid = "self"; pid != "0" && out.size() < EGRESS_MAX_ANCESTORS;) {
        const auto directory = "/proc/" + pid;
        const auto facts = facts_of(directory);
        std::error_code code;
        const auto path = std::filesystem::read_symlink(directory + "/exe", code);
        if (facts.command.empty() || code) {
            break;
        }
        Insider insider;
        set_program(insider, path.string(), facts.command);
        insider.name = escape(path.string());
        insider.uid = facts.uid;
        insider.gid = facts.gid;
        insider.cgroup = cgroup_of(directory);
        insider.descends = !out.empty();
        out.push_back(std::move(insider));
        pid = std::to_string(facts.parent);
    }
    return out;
}

Result<> name_programs(std::vector<Insider>& insiders, const NameFiles& name) {
    std::vector<PathQuery> queries;
    for (const auto& insider : insiders) {
        queries.push_back({insider.path, false});
    }
    const auto named = find_places(queries, name);
    if (!named) {
        return std::unexpected(named.error());
    }
    for (std::size_t i = 0; i < insiders.size(); ++i) {
        auto& process = insiders[i].process;
        process.program = (*named)[i].file.value_or(egress_file{});
        process.flags = EGRESS_PROCESS_HOST_PATH;
        set_text(process.path, EGRESS_INSIDE, insiders[i].path);
        if ((*named)[i].places.empty()) {
            process.flags |= EGRESS_PROCESS_LOST_PLACE;
        } else {
            const auto& place = (*named)[i].places.front();
            set_text(process.place, place.device, place.path);
        }
    }
    // Each insider followed by an older one descends from that one.
    for (std::size_t i = 0; i < insiders.size(); ++i) {
        for (auto j = i + 1; j < insiders.size() && insiders[j].descends; ++j) {
            auto& process = insiders[i].process;
            process.ancestors[process.ancestors_used++] = insiders[j].process.program;
        }
    }
    return {};
}

std::vector<Address> resolvers(const std::string& path) {
    auto out = read_resolv_conf(path).nameservers;
    for (const char* const text : {"127.0.0.53", "127.0.0.1", "::1"}) {
        const auto loopback = *Address::parse(text);
        if (std::ranges::find(out, loopback) == out.end()) {
            out.push_back(loopback);
        }
    }
    return out;
}

std::vector<policy::Diagnostic> lockouts(const policy::Policy& policy, const Tables& tables,
                                         const std::vector<Insider>& insiders,
                                         const std::vector<Address>& resolvers,
                                         std::uint64_t week_at_boot) {
    std::vector<policy::Diagnostic> out;
    std::vector<std::uint32_t> told;
    const auto now = boot_nanoseconds();
    if (!insiders.empty()) {
        find_socket_lockouts(policy, tables, insiders.front(), now, week_at_boot, out);
    }
    for (const auto& insider : insiders) {
        for (const auto& address : resolvers) {
            for (const bool tcp : {false, true}) {
                const auto found =
                    native_decide(tables, insider.process, flow_of(insider, address, tcp),
                                  insider.cgroup, now, week_at_boot);
                if (found.rule >= policy.egress.size() || !is_refused(policy.egress[found.rule]) ||
                    std::ranges::find(told, found.rule) != told.end()) {
                    continue;
                }
                told.push_back(found.rule);
                const auto& rule = policy.egress[found.rule];
                const bool loopback = address.text().starts_with("127.") || address.text() == "::1";
                out.push_back({policy::Diagnostic::Severity::warning, rule.place,
                               fmt::format("lockout: the line refuses name resolution to {} (uid "
                                           "{}), by {} port {}/{}",
                                           insider.name, insider.uid, shown(address), dns,
                                           tcp ? "tcp" : "udp"),
                               fmt::format("\"{}:53 * * * * allow\" can stand before it",
                                           loopback ? "local" : shown(address))});
            }
        }
    }
    return out;
}

std::vector<policy::Diagnostic> lockouts(const policy::Policy& policy,
                                         const std::vector<Insider>& insiders, const Clock& clock) {
    if (policy.egress.empty()) {
        return {};
    }
    std::vector<Insider> named = insiders;
    const auto world = world_of(policy, {}, clock);
    if (!world || !name_programs(named, {})) {
        return {};
    }
    const auto tables = compile(policy, *world, 1);
    if (!tables) {
        return {}; // the code that puts it in force reports why
    }
    return lockouts(policy, *tables, named, resolvers(resolv_conf), week_at_boot(clock));
}

} // namespace egress::bpf
