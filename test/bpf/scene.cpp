#include "test/bpf/scene.h"

#include <algorithm>

#include <fmt/format.h>

#include "daemon/bpf/names.h"
#include "daemon/bpf/tables/names.h"

namespace egress::bpf {

namespace {

using policy::EgressRule;
using policy::Program;
namespace reference = policy::reference;

bool is_file(const std::string& path, const egress_file& file) {
    return std::ranges::any_of(files_of(path),
                               [&](const egress_file& each) { return same_file(each, file); });
}

bool fits_program(const EgressRule& rule, const Scene& scene) {
    const auto& options = rule.options;
    const auto& text = rule.program.text;
    const bool as_recorded =
        options.container == true || !options.cgroup.empty() || !options.unit.empty();
    const bool refuses = rule.verdict.kind != policy::Verdict::Kind::allow;
    const bool known = as_recorded || (scene.host_path && !scene.lost_place);
    // Where a file is can't be told: it may be what a refusal on that device names.
    const bool suspect = !as_recorded && scene.lost_place && scene.host_path && refuses;
    const bool named = !scene.deleted || refuses;
    switch (rule.program.kind) {
    case Program::Kind::any:
        return true;
    case Program::Kind::path:
        return suspect || (known && named && scene.path == text) ||
               (!as_recorded && is_file(text, scene.file));
    case Program::Kind::tree:
        return suspect || (known && named && scene.path.starts_with(text + "/"));
    case Program::Kind::command:
        return scene.command == text;
    }
    return false;
}

bool fits_lineage(const EgressRule& rule, const Scene& scene) {
    const auto& [options, ancestors] = std::tie(rule.options, scene.ancestors);
    const bool lost = scene.lost_lineage && rule.verdict.kind != policy::Verdict::Kind::allow;
    if (!options.parent.empty() && !(lost && ancestors.empty()) &&
        (ancestors.empty() || !is_file(options.parent, ancestors.front()))) {
        return false;
    }
    return options.under.empty() || lost ||
           std::ranges::any_of(
               ancestors, [&](const egress_file& file) { return is_file(options.under, file); });
}

reference::Flow reference_flow(const Scene& scene) {
    reference::Flow flow;
    flow.destination = scene.destination;
    flow.port = scene.port;
    flow.cgroup = all_cgroups()[scene.cgroup].path;
    flow.container = scene.container;
    flow.names = scene.names;
    flow.answered = scene.answered;
    flow.now = scene.now;
    return flow;
}

/// What is cheap first: it is done a hundred million times.
bool fits(const policy::Policy& policy, const EgressRule& rule, const Scene& scene,
          const reference::Flow& flow) {
    const auto& options = rule.options;
    return (!rule.type || *rule.type == scene.type) &&
           (!rule.protocol.number || *rule.protocol.number == scene.protocol) &&
           (rule.protocol.family == AF_UNSPEC ||
            rule.protocol.family == scene.destination.family()) &&
           (!rule.owner.uid || *rule.owner.uid == scene.uid) &&
           (!rule.owner.gid || *rule.owner.gid == scene.gid) && fits_program(rule, scene) &&
           reference::fits_port(rule.destination.ports, scene.port) && fits_lineage(rule, scene) &&
           reference::fits_place(options, flow) &&
           reference::fits_host(policy, rule.destination, flow) &&
           (!options.resolved || flow.answered) && reference::fits_time(options, flow);
}

/// The grants of one address, as the hooks would have written them for lines of every kind.
class Grants {
  public:
    const egress_grants* of(const Scene& scene) {
        if (sets_.empty()) {
            sets_.resize(EGRESS_GRANTS_SETS);
        }
        for (auto* const set : used_) {
            *set = {};
        }
        used_.clear();
        const auto until = static_cast<std::uint64_t>(scene.now - boot_time + 1) * 1000000000;
        for (const auto& name : scene.names) {
            grant(scene, key_of({policy::NameKind::exact, name}, names_key), until);
            auto kind = policy::NameKind::one;
            for (auto dot = name.find('.'); dot != name.npos; dot = name.find('.', dot + 1)) {
                const auto base = std::string_view(name).substr(dot + 1);
                if (kind == policy::NameKind::one) {
                    grant(scene, key_of({kind, base}, names_key), until);
                    kind = policy::NameKind::deep;
                }
                grant(scene, key_of({kind, base}, names_key), until);
            }
        }
        if (scene.answered) {
            grant(scene, EGRESS_ANY_NAME, until);
        }
        return sets_.data();
    }

  private:
    void grant(const Scene& scene, std::uint64_t key, std::uint64_t until) {
        const auto& raw = scene.destination.raw();
        const std::array<__u64, 2> secret = {names_key[0], names_key[1]};
        const auto hash = egress_grants_of(secret.data(), raw.data());
        for (const auto number : {EGRESS_FIRST_SET(hash), EGRESS_SECOND_SET(hash)}) {
            egress_grants& set = sets_[number];
            used_.push_back(&set);
            auto* const free = std::ranges::find_if(
                set.each, [](const egress_grant& each) { return each.until == 0; });
            if (free != std::end(set.each)) {
                std::ranges::copy(raw, free->address);
                free->key = key;
                free->until = until;
                return;
            }
        }
    }

    std::vector<egress_grants> sets_;
    std::vector<egress_grants*> used_;
};

} // namespace

const std::vector<Cgroup>& all_cgroups() {
    static const std::vector<Cgroup> all = {{1, "/"},
                                            {20, "/guests.slice"},
                                            {30, "/guests.slicer"},
                                            {21, "/guests.slice/a.scope"},
                                            {7, "/guests.slice/a.scope/deep"},
                                            {22, "/guests.slice/nginx.service"},
                                            {40, "/system.slice"},
                                            {5, "/system.slice/nginx.service"},
                                            {41, "/system.slice/nginx.service/x"},
                                            {42, "/system.slice/other.service"}};
    return all;
}

std::vector<egress_file> files_of(const std::string& path) {
    if (path == "/usr/bin/curl") {
        return {{1, 8, 7, 0}};
    }
    if (path == "/usr/bin/wget") {
        return {{2, 8, 7, 0}, {3, 8, 7, 0}};
    }
    if (path == "/usr/sbin/sshd") {
        return {{4, 8, 7, 0}};
    }
    if (path == "/opt/a#b/x") {
        return {{1, 9, 7, 0}}; // curl's number in another file system
    }
    if (path == "/\xc3\xa4") {
        return {{2, 8, 7, 0}}; // a link to one of wget's
    }
    constexpr std::string_view numbered = "/srv/p"; // "/srv/p17" is a file, "/srv/p17/x" none
    const auto digits = path.starts_with(numbered) ? path.substr(numbered.size()) : "";
    if (!digits.empty() && digits.find_first_not_of("0123456789") == digits.npos) {
        return {{100 + std::stoul(digits), 8, 7, 0}};
    }
    return {};
}

World fake_world() {
    World world;
    world.files = files_of;
    world.places = [](const std::string& path, bool) {
        return std::vector<Place>{{host_device, path}};
    };
    world.subordinate = [](std::uint32_t, bool) { return std::vector<IdRange>{}; };
    world.wall_at_boot = boot_time;
    world.names_key = names_key;
    return world;
}

egress_process process_of(const Scene& scene) {
    egress_process out{};
    out.program = scene.file;
    const auto text = [](std::uint32_t device, const std::string& path) {
        egress_tree tree{EGRESS_DEVICE_BITS, device, {}};
        std::ranges::copy(path, tree.path);
        tree.bits += static_cast<std::uint32_t>(path.empty() ? 0 : (path.size() + 1) * 8);
        return tree;
    };
    constexpr std::uint32_t other_device = 77;
    out.place = text(scene.host_path ? host_device : other_device,
                     scene.lost_place ? std::string() : scene.path);
    out.path = text(EGRESS_INSIDE, scene.path);
    std::ranges::copy(scene.command, out.command);
    std::ranges::copy(scene.ancestors, out.ancestors);
    out.ancestors_used = static_cast<std::uint32_t>(scene.ancestors.size());
    const auto flag = [&out](bool is_set, egress_process_flag bit) {
        out.flags |= is_set ? static_cast<std::uint32_t>(bit) : 0;
    };
    flag(scene.host_path, EGRESS_PROCESS_HOST_PATH);
    flag(scene.lost_place, EGRESS_PROCESS_LOST_PLACE);
    flag(scene.deleted, EGRESS_PROCESS_DELETED);
    flag(scene.lost_lineage, EGRESS_PROCESS_LOST_LINEAGE);
    return out;
}

egress_flow flow_of(const Scene& scene) {
    egress_flow out{};
    std::ranges::copy(scene.destination.raw(), out.address);
    out.port = scene.port;
    out.type = static_cast<std::uint8_t>(scene.type);
    out.protocol = static_cast<std::uint8_t>(scene.protocol);
    out.uid = scene.uid;
    out.gid = scene.gid;
    out.in_container = scene.container ? 1 : 0;
    return out;
}

Decision decide_compiled(const Tables& tables, const Scene& scene) {
    constexpr std::int64_t week = 7 * 86400;
    const auto week_at_boot = ((boot_time - monday + scene.offset) % week + week) % week;
    static Grants grants;
    return native_decide(
        tables, process_of(scene), flow_of(scene), all_cgroups()[scene.cgroup].path,
        static_cast<std::uint64_t>(scene.now - boot_time) * std::uint64_t{1000000000},
        static_cast<std::uint64_t>(week_at_boot), grants.of(scene));
}

std::uint32_t decide_plainly(const policy::Policy& policy, const Scene& scene) {
    const auto flow = reference_flow(scene);
    for (std::size_t i = 0; i < policy.egress.size(); ++i) {
        if (fits(policy, policy.egress[i], scene, flow)) {
            return static_cast<std::uint32_t>(i);
        }
    }
    return EGRESS_UNMATCHED;
}

std::string Scene::text() const {
    std::string lineage;
    for (const auto& each : ancestors) {
        lineage += fmt::format(" {}:{}", each.device, each.inode);
    }
    return fmt::format(
        "{}:{} [{}]{} type={} protocol={} uid={} gid={} path={}{}{}{}{} file={}:{} command={} "
        "ancestors=[{}] cgroup={} {} now={} offset={}",
        destination.text(), port, fmt::join(names, " "), answered ? " answered" : "", type,
        protocol, uid, gid, path, host_path ? "" : " (inside)", lost_place ? " (lost)" : "",
        deleted ? " (deleted)" : "", lost_lineage ? " (orphan)" : "", file.device, file.inode,
        command, lineage, all_cgroups()[cgroup].path, container ? "container" : "host", now,
        offset);
}

} // namespace egress::bpf
