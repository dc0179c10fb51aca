// The plainest matcher that does what egress.conf(5) says of [egress]: one loop, every rule,
// nothing but text. The oracle of the compiled form.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/policy/rules/rule.h"

namespace egress::policy::reference {

/// A process that wants to send somewhere.
struct Flow {
    Address destination;
    std::uint16_t port = 0;
    int type = 0;     ///< SOCK_*
    int protocol = 0; ///< IPPROTO_*
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::string program;                ///< path
    std::string command;                ///< name that it was started under
    std::vector<std::string> ancestors; ///< paths of their programs; 0 is the parent
    std::string cgroup = "/";           ///< path below the cgroup2 root
    std::uint64_t token = 0;
    bool container = false;
    std::vector<std::string> names; ///< that the destination is known to bear
    bool answered = false;          ///< some approved resolver gave it as an answer
    std::int64_t now = 0;           ///< seconds since the epoch
};

inline bool in_any(const Address& address, std::initializer_list<const char*> prefixes) {
    return std::ranges::any_of(
        prefixes, [&](const char* text) { return Prefix::parse(text)->contains(address); });
}

inline bool is_local(const Address& address) {
    return in_any(address, {"127.0.0.0/8", "0.0.0.0", "::1", "::"});
}

inline bool is_private(const Address& address) {
    return in_any(address, {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10",
                            "169.254.0.0/16", "fc00::/7", "fe80::/10"});
}

inline bool is_internet(const Address& address) {
    if (is_local(address) || is_private(address)) {
        return false;
    }
    return address.is_v4() ? !in_any(address, {"0.0.0.0/8", "224.0.0.0/4", "255.255.255.255"})
                           : in_any(address, {"2000::/3", "64:ff9b::/96", "64:ff9b:1::/48"});
}

/// Number of labels that `name` has before "." and `base`; -1: it does not end so.
inline int labels_before(const std::string& name, const std::string& base) {
    const auto end = "." + base;
    if (!name.ends_with(end)) {
        return -1;
    }
    return 1 + static_cast<int>(std::count(
                   name.begin(), name.end() - static_cast<std::ptrdiff_t>(end.size()), '.'));
}

inline bool fits_name(const NamePatterns::Pattern& pattern, const Flow& flow) {
    return std::ranges::any_of(flow.names, [&](const std::string& name) {
        const int labels = labels_before(name, std::string(pattern.name));
        return pattern.kind == NameKind::exact ? name == pattern.name
               : pattern.kind == NameKind::one ? labels == 1
                                               : labels >= 1;
    });
}

inline bool fits_list(const Policy& policy, const std::string& name, const Flow& flow) {
    for (const auto& list : policy.lists) {
        if (list->name != name) {
            continue;
        }
        for (const auto& prefix : list->prefixes) {
            if (prefix.contains(flow.destination)) {
                return true;
            }
        }
        bool found = false;
        list->names.each([&](const auto& pattern) { found = found || fits_name(pattern, flow); });
        if (found) {
            return true;
        }
    }
    return false;
}

inline bool fits_host(const Policy& policy, const Destination& destination, const Flow& flow) {
    using Kind = Destination::Kind;
    switch (destination.kind) {
    case Kind::any:
        return true;
    case Kind::prefix:
        return destination.prefix.contains(flow.destination);
    case Kind::name:
    case Kind::below:
    case Kind::any_below:
        return fits_name(pattern_of(destination), flow);
    case Kind::list:
        return fits_list(policy, destination.text, flow);
    case Kind::internet:
        return is_internet(flow.destination);
    case Kind::private_:
        return is_private(flow.destination);
    case Kind::local:
        return is_local(flow.destination);
    case Kind::multicast:
        return in_any(flow.destination, {"224.0.0.0/4", "ff00::/8"});
    case Kind::broadcast:
        return in_any(flow.destination, {"255.255.255.255"});
    case Kind::socket:
        return false; // a flow goes to an address
    }
    return false;
}

inline bool fits_port(const std::vector<PortRange>& ranges, std::uint16_t port) {
    return ranges.empty() || std::ranges::any_of(ranges, [port](const PortRange& range) {
               return range.first <= port && port <= range.last;
           });
}

inline bool fits_program(const Program& program, const Flow& flow) {
    switch (program.kind) {
    case Program::Kind::any:
        return true;
    case Program::Kind::path:
        return flow.program == program.text;
    case Program::Kind::tree:
        return flow.program.starts_with(program.text + "/");
    case Program::Kind::command:
        return flow.command == program.text;
    }
    return false;
}

inline bool fits_lineage(const EgressOptions& options, const Flow& flow) {
    const auto& ancestors = flow.ancestors;
    const bool parent =
        options.parent.empty() || (!ancestors.empty() && ancestors.front() == options.parent);
    const bool under =
        options.under.empty() || std::ranges::find(ancestors, options.under) != ancestors.end();
    return parent && under;
}

inline bool fits_place(const EgressOptions& options, const Flow& flow) {
    const auto path = flow.cgroup + "/"; // "/a/" begins with "/a/", "/ab/" does not
    const bool cgroup =
        options.cgroup.empty() || options.cgroup == "/" || path.starts_with(options.cgroup + "/");
    const bool unit = options.unit.empty() || path.find("/" + options.unit + "/") != path.npos;
    return cgroup && unit && (!options.container || *options.container == flow.container);
}

/// Whether `now` is in the window that begins on this day or the one before.
inline bool fits_window(const Window& window, const Flow& flow) {
    std::tm local{};
    const std::time_t now = flow.now;
    localtime_r(&now, &local);
    const auto today = static_cast<std::size_t>((local.tm_wday + 6) % 7);
    const auto yesterday = (today + 6) % 7;
    const int minute = local.tm_hour * 60 + local.tm_min;
    if (window.from < window.to) {
        return window.days[today] && window.from <= minute && minute < window.to;
    }
    return (window.days[today] && window.from <= minute) ||
           (window.days[yesterday] && minute < window.to);
}

inline bool fits_time(const EgressOptions& options, const Flow& flow) {
    if (options.until && flow.now >= *options.until) {
        return false;
    }
    return options.when.empty() || std::ranges::any_of(options.when, [&](const Window& window) {
               return fits_window(window, flow);
           });
}

inline bool fits(const Policy& policy, const EgressRule& rule, const Flow& flow) {
    const auto& options = rule.options;
    const int family = flow.destination.family();
    return fits_host(policy, rule.destination, flow) &&
           fits_port(rule.destination.ports, flow.port) && (!options.resolved || flow.answered) &&
           (!rule.type || *rule.type == flow.type) &&
           (!rule.protocol.number || *rule.protocol.number == flow.protocol) &&
           (rule.protocol.family == AF_UNSPEC || rule.protocol.family == family) &&
           (!rule.owner.uid || *rule.owner.uid == flow.uid) &&
           (!rule.owner.gid || *rule.owner.gid == flow.gid) && fits_program(rule.program, flow) &&
           (!options.token ||
            (options.token->least <= flow.token && flow.token <= options.token->most)) &&
           fits_lineage(options, flow) && fits_place(options, flow) && fits_time(options, flow);
}

/// The line that decides, or null.
inline const EgressRule* decide(const Policy& policy, const Flow& flow) {
    for (const auto& rule : policy.egress) {
        if (fits(policy, rule, flow)) {
            return &rule;
        }
    }
    return nullptr;
}

} // namespace egress::policy::reference
