#include "daemon/bpf/tables/world.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <set>

#include <glob.h>
#include <unistd.h>

#include <fmt/format.h>

#include "daemon/base/ids.h"
#include "daemon/base/number.h"
#include "daemon/bpf/tables/hidden.h"
#include "daemon/bpf/tables/host.h"
#include "daemon/bpf/tables/multi_call.h"
#include "daemon/policy/egress/check.h"

namespace egress::bpf {

namespace {

constexpr const char* passwd_file = "/etc/passwd";
constexpr const char* group_file = "/etc/group";
constexpr const char* subuid_file = "/etc/subuid";
constexpr const char* subgid_file = "/etc/subgid";
constexpr const char* resolv_file = "/etc/resolv.conf";
constexpr std::uint16_t dns_port = 53;

/// The paths that a policy names as files or places.
std::set<PathQuery> queries_of(const policy::Policy& policy) {
    std::set<PathQuery> out;
    const auto add = [&out](const std::string& path, bool tree) {
        if (!path.empty()) {
            out.insert({path, tree});
        }
    };
    for (const auto& rule : policy.egress) {
        if (rule.program.kind == policy::Program::Kind::path ||
            rule.program.kind == policy::Program::Kind::tree) {
            add(rule.program.text, rule.program.kind == policy::Program::Kind::tree);
        }
        add(rule.options.parent, false);
        add(rule.options.under, false);
    }
    return out;
}

/// The loaders of the host's C libraries, by the names that every program has in it. They are
/// wanted only for lines that refuse some program.
std::vector<std::string> loaders_for(const policy::Policy& policy) {
    std::vector<std::string> out;
    if (std::ranges::none_of(policy.egress, refuses_program)) {
        return out;
    }
    glob_t found{};
    int flags = 0;
    for (const auto* pattern : {"/lib*/ld-linux*.so.*", "/lib*/ld64.so.*", "/lib*/ld.so.*",
                                "/lib*/ld-musl-*.so.*", "/libx32/ld-linux*.so.*"}) {
        (void)glob(pattern, flags, nullptr, &found);
        flags = GLOB_APPEND;
    }
    out.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    return out;
}

/// The paths by which the rule names programs of the host.
std::set<std::string> host_programs_of(const policy::EgressRule& rule) {
    std::set<std::string> out = {rule.options.parent, rule.options.under};
    if (rule.program.kind == policy::Program::Kind::path && !by_recorded_path(rule.options)) {
        out.insert(rule.program.text);
    }
    out.erase("");
    return out;
}

std::vector<std::string> fields_of(const std::string& line) {
    std::vector<std::string> out(1);
    for (const char c : line) {
        if (c == ':') {
            out.emplace_back();
        } else {
            out.back() += c;
        }
    }
    return out;
}

/// The lines of a subuid(5) file.
std::vector<std::pair<std::string, IdRange>> ranges_in(const std::string& path) {
    std::vector<std::pair<std::string, IdRange>> out;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        const auto fields = fields_of(line);
        const auto first =
            fields.size() == 3 ? parse_decimal<std::uint32_t>(fields[1]) : std::nullopt;
        const auto count =
            fields.size() == 3 ? parse_decimal<std::uint32_t>(fields[2]) : std::nullopt;
        if (first && count && *count > 0) {
            out.emplace_back(fields[0], IdRange{*first, *count});
        }
    }
    return out;
}

} // namespace

std::vector<IdRange> read_subordinate(const std::string& path, const std::string& passwd,
                                      std::uint32_t id) {
    std::vector<IdRange> out;
    auto names = Ids(passwd).names(id);
    names.insert(std::to_string(id));
    for (const auto& [user, range] : ranges_in(path)) {
        if (names.contains(user)) {
            out.push_back(range);
        }
    }
    return out;
}

Lenders read_lenders(const std::string& path, const std::string& passwd) {
    Lenders out;
    const Ids users(passwd);
    for (const auto& [user, range] : ranges_in(path)) {
        const auto named = users.number(user);
        if (const auto uid = named ? named : parse_decimal<std::uint32_t>(user)) {
            out.emplace_back(range, *uid != 0 ? *uid : range.first);
        }
    }
    return out;
}

bool operator==(const Inventory& a, const Inventory& b) {
    const auto same = [](const auto& x, const auto& y) {
        return x.first == y.first && std::ranges::equal(x.second, y.second, same_file);
    };
    return a.paths == b.paths && std::ranges::equal(a.running, b.running, same) &&
           a.subuids == b.subuids && a.subgids == b.subgids && a.resolv == b.resolv &&
           a.lenders == b.lenders;
}

std::vector<egress_file> Inventory::files(const std::string& path) const {
    std::vector<egress_file> out;
    if (const auto found = running.find(path); found != running.end()) {
        out = found->second;
    }
    const auto named = paths.find({path, false});
    if (named != paths.end() && named->second.file) {
        out.push_back(*named->second.file);
    }
    return out;
}

Result<Inventory> take_inventory(const policy::Policy& policy, const NameFiles& name) {
    Inventory out;
    auto queries = queries_of(policy);
    out.loaders = loaders_for(policy);
    for (const auto& loader : out.loaders) {
        queries.insert({loader, false});
    }
    const std::vector<PathQuery> list(queries.begin(), queries.end());
    auto named = find_places(list, name);
    if (!named) {
        return std::unexpected(named.error());
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
        out.paths.emplace(list[i], std::move((*named)[i]));
    }
    for (const auto& rule : policy.egress) {
        const auto& owner = rule.owner;
        if (owner.uid && !out.subuids.contains(*owner.uid)) {
            out.subuids[*owner.uid] = read_subordinate(subuid_file, passwd_file, *owner.uid);
        }
        if (owner.gid && !out.subgids.contains(*owner.gid)) {
            out.subgids[*owner.gid] = read_subordinate(subgid_file, group_file, *owner.gid);
        }
    }
    if (needs_answers(policy)) {
        out.resolv = current_resolv_conf();
    }
    out.lenders = read_lenders(subuid_file, passwd_file);
    out.lenders.emplace_back(IdRange{geteuid(), 1}, 0); // its look-ups are for everybody
    return out;
}

bool needs_answers(const policy::Policy& policy, const policy::EgressRule& rule) {
    return rule.options.resolved || goes_by_name(policy, rule.destination);
}

bool needs_answers(const policy::Policy& policy) {
    return policy.dns.queries_listed.value_or(false) || policy.dns.judges_others() ||
           std::ranges::any_of(policy.egress,
                               [&](const auto& rule) { return needs_answers(policy, rule); });
}

ResolvConf current_resolv_conf() {
    return read_resolv_conf(resolv_file);
}

std::vector<Endpoint> resolvers_of(const policy::Policy& policy, const Inventory& inventory) {
    if (!policy.dns.resolvers.empty()) {
        return policy.dns.resolvers;
    }
    std::vector<Endpoint> out;
    for (const auto& address : inventory.resolv.nameservers) {
        out.push_back({address, dns_port});
    }
    return out;
}

World world_of(const Inventory& inventory, const Clock& clock) {
    World world;
    world.search = inventory.resolv.search;
    world.lenders = inventory.lenders;
    world.wall_at_boot = clock.at_boot();
    world.loaders = inventory.loaders;
    world.files = [&inventory](const std::string& path) { return inventory.files(path); };
    world.places = [&inventory](const std::string& path, bool tree) {
        const auto found = inventory.paths.find({path, tree});
        return found != inventory.paths.end() ? found->second.places : std::vector<Place>{};
    };
    world.subordinate = [&inventory](std::uint32_t id, bool group) {
        const auto& ranges = group ? inventory.subgids : inventory.subuids;
        const auto found = ranges.find(id);
        return found != ranges.end() ? found->second : std::vector<IdRange>{};
    };
    return world;
}

std::optional<World> world_of(const policy::Policy& policy, const NameFiles& name,
                              const Clock& clock) {
    auto taken = take_inventory(policy, name);
    if (!taken) {
        return std::nullopt;
    }
    const auto kept = std::make_shared<const Inventory>(std::move(*taken));
    World world = world_of(*kept, clock);
    world.files = [kept, files = world.files](const std::string& path) { return files(path); };
    return world;
}

std::vector<policy::Diagnostic> check_system(const policy::Policy& policy) {
    std::vector<policy::Diagnostic> out;
    const auto warn = [&out](const policy::Place& place, std::string text, std::string hint) {
        out.push_back(
            {policy::Diagnostic::Severity::warning, place, std::move(text), std::move(hint)});
    };
    const auto line = std::ranges::find_if(
        policy.egress, [&](const auto& rule) { return needs_answers(policy, rule); });
    if (policy.egress.empty() && policy.dns.place) {
        warn(*policy.dns.place, "no lines of [egress] are in force, so that [dns] does nothing",
             "\"* * * * * allow\" under [egress] puts it in force");
    } else if (needs_answers(policy)) {
        Inventory seen;
        seen.resolv = read_resolv_conf(resolv_file);
        for (const auto& each : hidden_answers(policy, resolvers_of(policy, seen))) {
            warn(line != policy.egress.end() ? line->place : *policy.dns.place, each.what,
                 each.advice);
        }
    }
    const auto root = cgroup_root();
    std::set<std::uint32_t> lent;
    for (const auto& rule : policy.egress) {
        const auto& options = rule.options;
        for (const auto& path : host_programs_of(rule)) {
            if (const auto file = multi_call_file(path); !file.empty()) {
                warn(rule.place, fmt::format("{} is many programs in one file", file),
                     path == file ? "the line is for all of them"
                                  : fmt::format("the line is for all of them, not only {}", path));
            }
        }
        if ((!options.cgroup.empty() || !options.unit.empty()) && !has_cgroup(root, options)) {
            warn(rule.place,
                 options.unit.empty() ? fmt::format("there is no cgroup {} now", options.cgroup)
                                      : fmt::format("no unit {} has a cgroup now", options.unit),
                 "the line holds from its first process on");
        }
        if (!rule.owner.uid || !lent.insert(*rule.owner.uid).second) {
            continue;
        }
        std::uint64_t count = 0;
        for (const auto& range : read_subordinate(subuid_file, passwd_file, *rule.owner.uid)) {
            count += range.count;
        }
        if (count > 0) {
            warn(rule.place, fmt::format("uid {} has {} subordinate ids", *rule.owner.uid, count),
                 "the line is for them, too; see subuid(5)");
        }
    }
    return out;
}

} // namespace egress::bpf
