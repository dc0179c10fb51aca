#include "test/bpf/scene.h"

#include <algorithm>

#include <fmt/format.h>

namespace egress::bpf {

namespace {

using policy::EgressRule;
using policy::Program;
namespace reference = policy::reference;

bool is_same(const egress_file& a, const egress_file& b) {
    return a.inode == b.inode && a.device == b.device;
}

bool is_file(const std::string& path, const egress_file& file) {
    return std::ranges::any_of(files_of(path),
                               [&](const egress_file& each) { return is_same(each, file); });
}

bool fits_program(const EgressRule& rule, const Scene& scene) {
    const auto& options = rule.options;
    const auto& text = rule.program.text;
    const bool as_recorded =
        options.container == true || !options.cgroup.empty() || !options.unit.empty();
    const bool trusted = as_recorded || scene.host_path;
    switch (rule.program.kind) {
    case Program::Kind::any:
        return true;
    case Program::Kind::path:
        return (trusted && scene.path == text) || (!as_recorded && is_file(text, scene.file));
    case Program::Kind::tree:
        return trusted && scene.path.starts_with(text + "/");
    case Program::Kind::command:
        return scene.command == text;
    }
    return false;
}

bool fits_lineage(const policy::EgressOptions& options, const Scene& scene) {
    const auto& ancestors = scene.ancestors;
    if (!options.parent.empty() &&
        (ancestors.empty() || !is_file(options.parent, ancestors.front()))) {
        return false;
    }
    return options.under.empty() || std::ranges::any_of(ancestors, [&](const egress_file& file) {
               return is_file(options.under, file);
           });
}

reference::Flow reference_flow(const Scene& scene) {
    reference::Flow flow;
    flow.destination = scene.destination;
    flow.port = scene.port;
    flow.cgroup = all_cgroups()[scene.cgroup].path;
    flow.container = scene.container;
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
           reference::fits_port(rule.destination.ports, scene.port) &&
           fits_lineage(options, scene) && reference::fits_place(options, flow) &&
           reference::fits_host(policy, rule.destination, flow) &&
           reference::fits_time(options, flow);
}

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
        return {{1, 8, 0}};
    }
    if (path == "/usr/bin/wget") {
        return {{2, 8, 0}, {3, 8, 0}};
    }
    if (path == "/usr/sbin/sshd") {
        return {{4, 8, 0}};
    }
    if (path == "/opt/a#b/x") {
        return {{1, 9, 0}}; // curl's number in another file system
    }
    if (path == "/\xc3\xa4") {
        return {{2, 8, 0}}; // a link to one of wget's
    }
    constexpr std::string_view numbered = "/srv/p"; // "/srv/p17" is a file, "/srv/p17/x" none
    const auto digits = path.starts_with(numbered) ? path.substr(numbered.size()) : "";
    if (!digits.empty() && digits.find_first_not_of("0123456789") == digits.npos) {
        return {{100 + std::stoul(digits), 8, 0}};
    }
    return {};
}

World fake_world() {
    World world;
    world.files = files_of;
    world.cgroups = [](const policy::EgressOptions& options) {
        std::vector<Cgroup> out;
        for (const auto& each : all_cgroups()) {
            if (options.unit.empty() ? each.path == options.cgroup
                                     : each.path.ends_with("/" + options.unit)) {
                out.push_back(each);
            }
        }
        return out;
    };
    world.wall_at_boot = boot_time;
    return world;
}

egress_process process_of(const Scene& scene) {
    egress_process out{};
    out.program = scene.file;
    out.path.bits =
        static_cast<std::uint32_t>(scene.path.empty() ? 0 : (scene.path.size() + 1) * 8);
    std::ranges::copy(scene.path, out.path.path);
    std::ranges::copy(scene.command, out.command);
    std::ranges::copy(scene.ancestors, out.ancestors);
    out.ancestors_used = static_cast<std::uint32_t>(scene.ancestors.size());
    out.flags = scene.host_path ? EGRESS_PROCESS_HOST_PATH : 0;
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
    const auto& own = all_cgroups()[scene.cgroup].path;
    std::vector<std::uint64_t> cgroups;
    for (auto each = all_cgroups().rbegin(); each != all_cgroups().rend(); ++each) {
        if (each->path == "/" || (own + "/").starts_with(each->path + "/")) {
            cgroups.push_back(each->id);
        }
    }
    const auto week_at_boot = ((boot_time - monday + scene.offset) % week + week) % week;
    return native_decide(tables, process_of(scene), flow_of(scene), cgroups,
                         static_cast<std::uint64_t>(scene.now - boot_time) *
                             std::uint64_t{1000000000},
                         static_cast<std::uint64_t>(week_at_boot));
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
    return fmt::format("{}:{} type={} protocol={} uid={} gid={} path={}{} file={}:{} command={} "
                       "ancestors=[{}] cgroup={} {} now={} offset={}",
                       destination.text(), port, type, protocol, uid, gid, path,
                       host_path ? "" : " (inside)", file.device, file.inode, command, lineage,
                       all_cgroups()[cgroup].path, container ? "container" : "host", now, offset);
}

} // namespace egress::bpf
