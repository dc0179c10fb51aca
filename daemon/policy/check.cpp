#include "daemon/policy/check.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include <fmt/format.h>
#include <netinet/in.h>

#include "daemon/policy/egress/check.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/names.h"

namespace egress::policy {

namespace {

/// Key of a line: two lines with equal keys match the same reports.
auto match_key(const auto& line) {
    return std::tuple(line.location.prefix, line.location.interface, line.location.self,
                      line.location.port, line.type, line.protocol.number, line.protocol.family,
                      line.owner, line.absent_owner);
}

/// The part of the key that [remote] shares with [local].
struct Service {
    std::optional<std::uint16_t> port;
    std::optional<int> type;
    std::optional<int> protocol;
    int family = AF_UNSPEC;
    std::optional<std::uint32_t> owner;
    friend auto operator<=>(const Service&, const Service&) = default;
};

Service service_of(const Rule& rule) {
    return {rule.location.port, rule.type, rule.protocol.number,
            family_of(rule.location, rule.protocol), rule.owner};
}

bool meet(const auto& a, const auto& b) {
    return !a || !b || *a == *b;
}

bool meet(const Service& a, const Service& b) {
    return meet(a.port, b.port) && meet(a.type, b.type) && meet(a.protocol, b.protocol) &&
           meet(a.owner, b.owner) &&
           (a.family == AF_UNSPEC || b.family == AF_UNSPEC || a.family == b.family);
}

class Checker {
  public:
    std::vector<Diagnostic> take() { return out_.take(); }
    Diagnostics& out() { return out_; }

    void shadowed(const auto& lines) {
        using Line = std::remove_cvref_t<decltype(lines[0])>;
        std::map<decltype(match_key(std::declval<Line>())), const Line*> first;
        for (const auto& line : lines) {
            const auto [at, added] = first.try_emplace(match_key(line), &line);
            if (!added) {
                out_.warn(
                    line.place, "the line never decides",
                    fmt::format("{} matches the same and comes first", at->second->place.text()));
            }
        }
    }

    void impossible(const auto& line) {
        const auto number = line.protocol.number;
        if ((line.type == SOCK_STREAM && (number == IPPROTO_UDP || number == IPPROTO_UDPLITE)) ||
            (line.type == SOCK_DGRAM && number == IPPROTO_TCP)) {
            out_.warn(line.place, "the line never matches",
                      fmt::format("no {} socket speaks {}",
                                  line.type == SOCK_STREAM ? "stream" : "dgram",
                                  number == IPPROTO_TCP ? "tcp" : "udp"));
        }
        const auto& prefix = line.location.prefix;
        if (prefix && line.protocol.family != AF_UNSPEC &&
            line.protocol.family != prefix->base.family()) {
            out_.warn(line.place, "the line never matches",
                      prefix->base.is_v4() ? "its address is IPv4 and its protocol for IPv6"
                                           : "its address is IPv6 and its protocol for IPv4");
        }
        const auto& interface = line.location.interface;
        if (!interface.empty() && !LocalNames::interface_exists(interface)) {
            out_.warn(line.place, fmt::format("there is no interface {} now", quote(interface)),
                      "the line matches nothing until there is one");
        }
    }

    void idle_options(const Rule& rule) {
        const auto& o = rule.options;
        if (rule.nfail.kind == Setting<std::uint32_t>::Kind::unlimited &&
            (o.escalate_percent || o.max || o.window || !o.grow.empty() || o.kill || o.reject ||
             o.by_name || o.all_ports || o.keep)) {
            out_.warn(rule.place, "the options do nothing", "with nfail '*' nothing is blocked");
        }
        if (rule.disable.kind == Setting<Seconds>::Kind::unlimited &&
            (o.escalate_percent || o.max)) {
            out_.warn(rule.place, "escalate and max do nothing",
                      "with disable '*' every block is for ever");
        }
        if (rule.disable.kind == Setting<Seconds>::Kind::value && o.max &&
            *o.max < rule.disable.value) {
            out_.warn(rule.place, "max does nothing", "it is shorter than disable");
        }
        if (o.spoofable && (rule.type == SOCK_STREAM || rule.protocol.number == IPPROTO_TCP)) {
            out_.warn(rule.place, "spoofable does nothing", "only UDP sources can be forged");
        }
    }

    /// Failures over UDP count only where the source is vouched for, or by spoofable=count.
    void forgeable(const Rule& rule) {
        const auto number = rule.protocol.number;
        const bool udp = number == IPPROTO_UDP || number == IPPROTO_UDPLITE;
        const bool datagrams = rule.type == SOCK_DGRAM ? !number || udp : udp && !rule.type;
        if (datagrams && !rule.options.spoofable &&
            rule.nfail.kind != Setting<std::uint32_t>::Kind::unlimited) {
            out_.warn(rule.place, "failures count only if the server vouches for the source",
                      "if it never does, write spoofable=count; spoofable=ignore says that this "
                      "is meant");
        }
    }

    /// On a port that users may open, a report counts only from the named owner, from root, or
    /// about a socket that root accepted.
    void unproved(const Rule& rule, std::uint16_t unprivileged) {
        const auto port = rule.location.port;
        if (rule.owner || (port && *port < unprivileged) ||
            rule.nfail.kind == Setting<std::uint32_t>::Kind::unlimited) {
            return;
        }
        out_.warn(
            rule.place,
            port ? fmt::format("only root's reports count on port {}", *port)
                 : fmt::format("from port {} on only root's reports count", unprivileged),
            fmt::format("any user may open {}; name the server's user in the owner column, in "
                        "a line for its port",
                        port ? "it" : "those"));
    }

    /// max has an effect only with escalate; in [remote] one of them may come from [local].
    void max_alone(const Rule& rule) {
        if (rule.options.max && !rule.options.escalate_percent) {
            out_.warn(rule.place, "max does nothing without escalate", "add escalate=2");
        }
    }

    void grow(const Rule& rule) {
        const int family = family_of(rule.location, rule.protocol);
        for (const auto& grow : rule.options.grow) {
            const bool v6 = grow.length > 32;
            const auto& aggregate = v6 ? rule.name.aggregate.v6 : rule.name.aggregate.v4;
            if (grow.length >= aggregate.value_or(v6 ? 128 : 32)) {
                out_.warn(rule.place, fmt::format("grow={} does nothing", grow.length),
                          "it must be shorter than what is counted as one address");
            }
            if (family == (v6 ? AF_INET : AF_INET6)) {
                out_.warn(rule.place, fmt::format("grow={} does nothing", grow.length),
                          fmt::format("the line is for {}", v6 ? "IPv4" : "IPv6"));
            }
        }
    }

    /// A [remote] line that counts a wider prefix than it matches would block other addresses.
    void wide_aggregate(const Rule& rule) {
        if (!rule.location.prefix) {
            return;
        }
        const auto& prefix = *rule.location.prefix;
        const auto& length = prefix.base.is_v4() ? rule.name.aggregate.v4 : rule.name.aggregate.v6;
        if (length && *length < prefix.length) {
            out_.warn(
                rule.place, fmt::format("/{} blocks more than the line matches", *length),
                fmt::format("a length from {} on stays inside {}", prefix.length, prefix.text()));
        }
    }

    void unreachable(const Policy& policy) {
        std::set<Service> services; // few, even with many lines
        for (const auto& rule : policy.local) {
            services.insert(service_of(rule)); // a local IPv4 address has only IPv4 remotes
        }
        std::map<Service, bool> known;
        for (const auto& rule : policy.remote) {
            const auto service = service_of(rule);
            const auto [at, added] = known.try_emplace(service, false);
            if (added) {
                at->second = std::ranges::any_of(
                    services, [&](const Service& local) { return meet(service, local); });
            }
            if (!at->second && !policy.local.empty()) {
                out_.warn(rule.place, "the line never decides",
                          "no [local] line is for the same service");
            }
        }
    }

    /// A report without a descriptor belongs to the service of the [trusted] line only.
    static bool covers(const Rule& rule, const Trusted& trusted) {
        const auto holds = [](const auto& wanted, const auto& has) {
            return !wanted || wanted == has;
        };
        const auto& prefix = rule.location.prefix;
        const auto& own = trusted.location.prefix;
        return holds(rule.location.port, trusted.location.port) && holds(rule.type, trusted.type) &&
               holds(rule.protocol.number, trusted.protocol.number) &&
               meet(rule.owner, trusted.owner) && (!prefix || (own && prefix->contains(own->base)));
    }

    void unused_trusted(const Policy& policy) {
        for (const auto& line : policy.trusted) {
            const auto covered = [&](const Rule& rule) { return covers(rule, line); };
            if (!policy.local.empty() && std::ranges::none_of(policy.local, covered)) {
                out_.warn(line.place, "reports by this line match no [local] line",
                          "give it the port, type and proto of the [local] line");
            }
        }
    }

    void trusted(const std::vector<Trusted>& lines) {
        // A report without a descriptor has no service by which a second line could be meant.
        // Lines for a cgroup are also for sockets, which have one.
        using Match = std::optional<decltype(match_key(std::declval<Trusted>()))>;
        std::map<std::tuple<std::optional<std::uint32_t>, std::string, Match>, const Trusted*>
            first;
        for (const auto& line : lines) {
            const Match match = line.cgroup.empty() ? Match() : Match(match_key(line));
            const auto [at, added] =
                first.try_emplace(std::tuple(line.owner, line.cgroup, match), &line);
            if (!added) {
                out_.warn(line.place, "the line never decides",
                          fmt::format("{} is for the same owner and comes first",
                                      at->second->place.text()));
            }
            if (!line.cgroup.empty() && !LocalNames::tells_peers()) {
                out_.warn(line.place,
                          "cgroup= has no effect on this kernel, so the line never matches",
                          "it needs Linux 6.5; name the user that reports instead");
            }
            if (!line.owner && line.cgroup.empty()) {
                out_.warn(line.place, "every user may have any address blocked",
                          "name the one user that reports");
            }
        }
    }

  private:
    Diagnostics out_;
};

} // namespace

std::vector<Diagnostic> check(const Policy& policy, const Sources& sources) {
    Checker checker;
    const std::uint16_t unprivileged = LocalNames::unprivileged_port();
    checker.shadowed(policy.local);
    for (const auto& rule : policy.local) {
        checker.impossible(rule);
        checker.idle_options(rule);
        checker.unproved(rule, unprivileged);
        checker.forgeable(rule);
        checker.max_alone(rule);
        checker.grow(rule);
    }
    checker.shadowed(policy.remote);
    for (const auto& rule : policy.remote) {
        checker.impossible(rule);
        checker.idle_options(rule);
        checker.wide_aggregate(rule);
        if (rule.name.kind != Name::Kind::inherit && !rule.name.aggregate.inherit) {
            checker.grow(rule);
        }
    }
    checker.unreachable(policy);
    checker.trusted(policy.trusted);
    checker.unused_trusted(policy);
    for (const auto& line : policy.trusted) {
        checker.impossible(line);
    }
    check_egress(policy, sources, checker.out());
    return checker.take();
}

} // namespace egress::policy
