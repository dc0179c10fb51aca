#include "daemon/policy/egress/check.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <memory>

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/resolv_conf.h"
#include "daemon/policy/egress/columns.h"
#include "daemon/policy/egress/options.h"
#include "daemon/policy/text/names.h"
#include "lib/fd.h"

namespace egress::policy {

namespace {

using Kind = Destination::Kind;

/// True if a program's path is the one that exec recorded in the container, not a file of the host.
bool by_recorded_path(const EgressOptions& options) {
    return options.container.value_or(false) || !options.cgroup.empty() || !options.unit.empty();
}

/// `name` has one label or more before "." and `base`; with `one`, exactly one.
bool name_below(std::string_view name, std::string_view base, bool one) {
    if (name.size() <= base.size() + 1 || !name.ends_with(base) ||
        name[name.size() - base.size() - 1] != '.') {
        return false;
    }
    const auto head = name.substr(0, name.size() - base.size() - 1);
    return !one || head.find('.') == std::string_view::npos;
}

bool covers_host(const Destination& a, const Destination& b) {
    switch (a.kind) {
    case Kind::any:
        return b.kind != Kind::socket;
    case Kind::socket:
        return b.kind == Kind::socket && (a.text == "*" || a.text == b.text);
    case Kind::prefix:
        return b.kind == Kind::prefix && a.prefix.length <= b.prefix.length &&
               a.prefix.contains(b.prefix.base);
    case Kind::below:
        return (b.kind == Kind::below && a.text == b.text) ||
               (b.kind == Kind::name && name_below(b.text, a.text, true));
    case Kind::any_below: {
        const bool deeper = name_below(b.text, a.text, false);
        return (b.kind == Kind::name && deeper) ||
               ((b.kind == Kind::below || b.kind == Kind::any_below) &&
                (a.text == b.text || deeper));
    }
    default:
        return a.kind == b.kind && a.text == b.text;
    }
}

bool covers_ports(const std::vector<PortRange>& a, const std::vector<PortRange>& b) {
    const auto inside = [&](const PortRange& inner) {
        return std::ranges::any_of(a, [&](const PortRange& outer) {
            return outer.first <= inner.first && inner.last <= outer.last;
        });
    };
    return a.empty() || (!b.empty() && std::ranges::all_of(b, inside)); // both are joined
}

bool covers_program(const EgressRule& a, const EgressRule& b) {
    const auto& outer = a.program;
    const auto& inner = b.program;
    const bool recorded = by_recorded_path(a.options);
    if (outer.kind == Program::Kind::any || outer.kind == Program::Kind::command) {
        return outer.kind == Program::Kind::any || outer == inner;
    }
    if (recorded != by_recorded_path(b.options)) {
        return false;
    }
    // On the host a path means a file, which may have other names outside the tree.
    const bool inner_is_text =
        inner.kind == Program::Kind::tree || (recorded && inner.kind == Program::Kind::path);
    return outer == inner || (outer.kind == Program::Kind::tree && inner_is_text &&
                              same_or_below(inner.text, outer.text + "/"));
}

template <typename T>
bool covers_value(const std::optional<T>& a, const std::optional<T>& b) {
    return !a || a == b;
}

bool covers_options(const EgressOptions& a, const EgressOptions& b) {
    const auto covers = [&](const EgressOptionRow& row) {
        return row.covers == nullptr || row.covers(a, b);
    };
    return std::ranges::all_of(egress_option_table(), covers);
}

/// Whether what `b` asks of answers implies what `a` does.
bool covers_answers(const EgressRule& a, const EgressRule& b) {
    const bool by_answer = a.options.resolved || is_name(a.destination);
    return (!a.options.resolved || b.options.resolved || is_name(b.destination)) &&
           (!by_answer || a.options.rebind || !b.options.rebind);
}

/// AF_INET, AF_INET6; AF_UNSPEC: the line is for both.
int family_of(const EgressRule& rule) {
    return rule.destination.kind == Kind::prefix ? rule.destination.prefix.base.family()
                                                 : rule.protocol.family;
}

class Checker {
  public:
    Checker(const Policy& policy, const Sources& sources, Diagnostics& out)
        : policy_(policy), root_(sources.root), names_(sources.root), out_(out),
          now_(std::time(nullptr)) {}

    void run() {
        for (const auto& rule : policy_.egress) {
            shadowed(rule);
            impossible(rule);
            idle(rule);
            answers(rule);
            owner(rule);
            program(rule);
            lineage(rule.options.parent, "parent", rule);
            lineage(rule.options.under, "under", rule);
        }
        for (const auto& list : policy_.lists) {
            if (list->prefixes.empty() && list->names.empty()) {
                out_.warn({list->file, 0, 0}, "the list is empty", "its lines match nothing");
            }
        }
    }

  private:
    void shadowed(const EgressRule& rule) {
        for (const auto& earlier : policy_.egress) {
            if (&earlier == &rule) {
                return;
            }
            if (covers(earlier, rule)) {
                out_.warn(rule.place, "the line never decides",
                          fmt::format("{} matches all that it does and comes first",
                                      earlier.place.text()));
                return;
            }
        }
    }

    void impossible(const EgressRule& rule) {
        const auto number = rule.protocol.number;
        constexpr std::array<int, 4> no_stream = {IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_ICMP,
                                                  IPPROTO_ICMPV6};
        const bool stream = rule.type == SOCK_STREAM && number &&
                            std::ranges::find(no_stream, *number) != no_stream.end();
        if (stream || (rule.type == SOCK_DGRAM && number == IPPROTO_TCP)) {
            out_.warn(rule.place, "the line never matches",
                      fmt::format("no {} socket speaks {}", stream ? "stream" : "dgram",
                                  number == IPPROTO_TCP   ? "tcp"
                                  : number == IPPROTO_UDP ? "udp"
                                                          : fmt::format("protocol {}", *number)));
        }
        const auto& destination = rule.destination;
        if (destination.kind == Kind::prefix && rule.protocol.family != AF_UNSPEC &&
            rule.protocol.family != destination.prefix.base.family()) {
            out_.warn(rule.place, "the line never matches",
                      destination.prefix.base.is_v4()
                          ? "its address is IPv4 and its protocol for IPv6"
                          : "its address is IPv6 and its protocol for IPv4");
        }
        if (rule.options.until && *rule.options.until <= now_) {
            out_.warn(rule.place, "the line never matches", "the time of until is past");
        }
    }

    /// Warns of options without effect.
    void idle(const EgressRule& rule) {
        const auto& options = rule.options;
        const bool allows = rule.verdict.kind == Verdict::Kind::allow;
        if (allows && options.nfail) {
            out_.warn(rule.place, "nfail and disable do nothing", "the line refuses nothing");
        }
        if (!allows && options.kill) {
            out_.warn(rule.place, "kill does nothing", "the line lets nothing through");
        }
        if (!allows && options.log && !options.audit) {
            out_.warn(rule.place, "log does nothing", "what is refused is recorded without it");
        }
    }

    /// Warns of what a line by name, or with resolved, does other than it seems.
    void answers(const EgressRule& rule) {
        const auto& options = rule.options;
        const bool named = is_name(rule.destination);
        const bool by_name = goes_by_name(policy_, rule.destination);
        if (!by_name && options.rebind) {
            out_.warn(rule.place, "rebind does nothing", "the line names no name");
        }
        if (!by_name && !options.resolved) {
            return;
        }
        if (!by_name &&
            (rule.destination.kind == Kind::private_ || rule.destination.kind == Kind::local)) {
            out_.warn(rule.place, "the line never matches",
                      "resolved leaves out private addresses");
        }
        if (named && options.resolved) {
            out_.warn(rule.place, "resolved does nothing",
                      "a name matches only what a resolver answered");
        }
        if (!has_resolver()) {
            out_.warn(rule.place, "no resolver is known: no address gets a name",
                      "name one in [dns], as in: resolver 192.0.2.1");
        }
        if (rule.verdict.kind != Verdict::Kind::allow && by_name) {
            out_.warn(rule.place, "the line refuses an address only after its name was looked up",
                      "a program can know the address without; allow what it needs, refuse the "
                      "rest");
        }
        if (rule.type == SOCK_RAW && named) {
            out_.warn(rule.place, "a raw socket names no name",
                      "the line holds for the addresses that any program has looked up");
        }
    }

    bool has_resolver() {
        if (!has_resolver_) {
            has_resolver_ = !policy_.dns.resolvers.empty() ||
                            !read_resolv_conf(root_ + "/etc/resolv.conf").nameservers.empty();
        }
        return *has_resolver_;
    }

    void owner(const EgressRule& rule) {
        // Ids in a container are ids of the host, but few of them have a name there.
        if (by_recorded_path(rule.options)) {
            return;
        }
        const auto& [uid, gid] = rule.owner;
        if (uid && !names_.has_uid(*uid)) {
            out_.warn(rule.place, fmt::format("there is no user {}", *uid),
                      "the line matches nothing until there is one");
        }
        if (gid && !names_.has_gid(*gid)) {
            out_.warn(rule.place, fmt::format("there is no group {}", *gid),
                      "the line matches nothing until there is one");
        }
    }

    void program(const EgressRule& rule) {
        const auto& [kind, text] = rule.program;
        if (kind == Program::Kind::command) {
            out_.warn(rule.place, fmt::format("program {} is only a command name", quote(text)),
                      "any program may be started under it; write the path");
        } else if (kind != Program::Kind::any && by_recorded_path(rule.options)) {
            const bool tree = kind == Program::Kind::tree;
            out_.warn(rule.place,
                      fmt::format("program {} is compared as the path inside",
                                  quote(tree ? text + "/**" : text)),
                      "who is root in a container can have any program under it");
        } else if (kind == Program::Kind::path) {
            file(text, "program", rule);
        } else if (kind == Program::Kind::tree) {
            directory(text, rule);
        }
    }

    void lineage(const std::string& path, std::string_view what, const EgressRule& rule) {
        if (!path.empty()) {
            file(path, what, rule);
        }
    }

    void absent(const std::string& path, std::string_view what, const EgressRule& rule) {
        out_.warn(rule.place, fmt::format("{} {} does not exist now", what, quote(path)),
                  "the line matches nothing until it does");
    }

    void directory(const std::string& path, const EgressRule& rule) {
        const auto real = resolved(root_ + path + "/");
        if (real.empty() && (errno == ENOENT || errno == ENOTDIR)) {
            absent(path, "directory", rule);
        }
    }

    /// The path without symbolic links; empty: it does not exist, see errno.
    static std::string resolved(const std::string& path) {
        const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr),
                                                               std::free);
        return real ? real.get() : "";
    }

    void file(const std::string& path, std::string_view what, const EgressRule& rule) {
        struct stat st {};
        if (stat((root_ + path).c_str(), &st) != 0) {
            if (errno == ENOENT || errno == ENOTDIR) {
                absent(path, what, rule);
            }
            return;
        }
        if (S_ISDIR(st.st_mode)) {
            out_.warn(rule.place, fmt::format("{} {} is a directory", what, quote(path)),
                      what == "program"
                          ? fmt::format("write {} for all programs below it", quote(path + "/**"))
                          : "the line matches nothing");
        } else if (!S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0) {
            out_.warn(rule.place, fmt::format("{} {} is no program", what, quote(path)),
                      "the line matches nothing until it is");
        } else if (is_script(path)) {
            out_.warn(rule.place, fmt::format("{} {} is a script", what, quote(path)),
                      "what runs is its interpreter; name that one");
        }
    }

    bool is_script(const std::string& path) const {
        const Fd fd(open((root_ + path).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
        std::array<char, 2> head{};
        return fd && read(fd.get(), head.data(), head.size()) == 2 && head[0] == '#' &&
               head[1] == '!';
    }

    const Policy& policy_;
    std::string root_;
    LocalNames names_;
    Diagnostics& out_;
    std::int64_t now_;
    std::optional<bool> has_resolver_; ///< once it is known
};

} // namespace

bool covers(const EgressRule& first, const EgressRule& second) {
    return covers_host(first.destination, second.destination) &&
           covers_ports(first.destination.ports, second.destination.ports) &&
           covers_value(first.type, second.type) &&
           covers_value(first.protocol.number, second.protocol.number) &&
           (first.protocol.family == AF_UNSPEC || first.protocol.family == family_of(second)) &&
           covers_value(first.owner.uid, second.owner.uid) &&
           covers_value(first.owner.gid, second.owner.gid) && covers_program(first, second) &&
           covers_answers(first, second) && covers_options(first.options, second.options);
}

std::string not_yet(const EgressRule& rule) {
    // A later version drops what it can do from here and from the table of options.
    if (rule.verdict.kind == Verdict::Kind::redirect) {
        return "the action redirect is not there yet";
    }
    if (rule.verdict.kind == Verdict::Kind::ask) {
        return "the action ask is not there yet";
    }
    for (const auto& row : egress_option_table()) {
        if (row.enforced == EgressOptionRow::Enforced::later && !row.values(rule.options).empty()) {
            return fmt::format("the option {} is not there yet", row.key);
        }
    }
    return "";
}

bool goes_by_name(const Policy& policy, const Destination& destination) {
    return is_name(destination) ||
           (destination.kind == Kind::list &&
            std::ranges::any_of(policy.lists, [&](const auto& list) {
                return list->name == destination.text && !list->names.empty();
            }));
}

void check_egress(const Policy& policy, const Sources& sources, Diagnostics& out) {
    Checker(policy, sources, out).run();
}

} // namespace egress::policy
