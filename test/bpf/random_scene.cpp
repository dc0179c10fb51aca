#include "test/bpf/random_scene.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <netinet/in.h>

namespace egress::bpf {

namespace {

using policy::Destination;
using policy::EgressRule;
using policy::Program;

constexpr std::array<const char*, 9> centres = {
    "10.20.30.40", "203.0.113.7", "0.0.0.0",       "255.255.255.255", "127.0.0.1",
    "2001:db8::1", "fe80::9",     "::fffe:0:ffff", "2001:db8:0:1::"};
constexpr std::array<int, 15> lengths4 = {0, 1, 8, 9, 15, 16, 17, 20, 23, 24, 25, 28, 30, 31, 32};
constexpr std::array<int, 15> lengths6 = {0, 1, 3, 7, 15, 16, 17, 32, 33, 63, 64, 96, 97, 127, 128};
constexpr std::array<const char*, 20> class_edges = {
    "127.0.0.0/8",   "0.0.0.0",        "::1",           "::",        "10.0.0.0/8",
    "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7",  "169.254.0.0/16",
    "fe80::/10",     "0.0.0.0/8",      "224.0.0.0/4",   "2000::/3",  "255.255.255.255",
    "64:ff9b::/96",  "240.0.0.0/4",    "ff00::/8",      "0.0.0.0/0", "::/0"};
constexpr std::array<std::uint32_t, 5> ids = {0, 33, 1000, 4294967294, 7};
constexpr std::array<const char*, 8> paths = {
    "/usr/bin/curl", "/usr/bin/wget", "/usr/sbin/sshd", "/opt/a#b/x",
    "/usr/binx",     "/\xc3\xa4",     "/usr/bin",       "/usr/local/bin/curl"};
constexpr std::array<const char*, 9> domains = {"example.org",
                                                "a.example.org",
                                                "b.a.example.org",
                                                "c.b.a.example.org",
                                                "example.net",
                                                "a.example.net",
                                                "org",
                                                "host",
                                                "xample.org"};
constexpr std::array<const char*, 4> commands = {"curl", "[", "fifteen-bytes#x", "other"};

std::uint64_t below(Random& random, std::uint64_t bound) {
    return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(random);
}
bool chance(Random& random, int percent) {
    return below(random, 100) < static_cast<std::uint64_t>(percent);
}
template <typename List>
const auto& pick(Random& random, const List& list) {
    return list[below(random, list.size())];
}

/// One more or one less, over all 128 bits.
Address step(const Address& address, bool up) {
    auto bytes = address.raw();
    for (std::size_t i = bytes.size(); i-- > 0;) {
        bytes[i] = static_cast<std::uint8_t>(bytes[i] + (up ? 1 : 255));
        if (bytes[i] != (up ? 0 : 255)) {
            break;
        }
    }
    return *Address::from_bytes(bytes);
}

/// The address, its bits after the first `length` by chance, set, or as they are.
Address fill(Random& random, const Prefix& prefix, bool ones) {
    auto bytes = prefix.base.raw();
    for (std::size_t bit = prefix.length + (prefix.base.is_v4() ? 96U : 0U); bit < 128; ++bit) {
        if (ones || chance(random, 50)) {
            bytes[bit / 8] |= static_cast<std::uint8_t>(0x80 >> bit % 8);
        }
    }
    return *Address::from_bytes(bytes);
}

Address at_edge(Random& random, const Prefix& prefix) {
    switch (below(random, 6)) {
    case 0:
        return prefix.base;
    case 1:
        return fill(random, prefix, true);
    case 2:
        return step(prefix.base, false);
    case 3:
        return step(fill(random, prefix, true), true);
    default:
        return fill(random, prefix, false);
    }
}

Prefix random_prefix(Random& random) {
    const auto centre = *Address::parse(pick(random, centres));
    const int length = centre.is_v4() ? pick(random, lengths4) : pick(random, lengths6);
    Prefix prefix = Prefix::around(centre, length);
    if (chance(random, 25)) { // a neighbour
        prefix = Prefix::around(at_edge(random, prefix), length);
    }
    return prefix;
}

void add_lists(Random& random, policy::Policy& policy) {
    for (int i = 0; i < 4; ++i) {
        policy::AddressList list{fmt::format("l{}", i), "random", {}, {}};
        for (auto n = 1 + below(random, i == 0 ? 3 : 40); n > 0; --n) {
            list.prefixes.push_back(random_prefix(random));
        }
        for (auto n = below(random, 8); i != 1 && n > 0; --n) {
            list.names.add(
                {static_cast<policy::NameKind>(below(random, 3)), pick(random, domains)});
        }
        policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    }
}

std::string own_program(Random& random) {
    return fmt::format("/srv/p{}", below(random, 40));
}

void craft(Random& random, EgressRule& rule) {
    using Kind = Destination::Kind;
    constexpr std::array<Kind, 17> kinds = {
        Kind::any,  Kind::prefix, Kind::prefix,    Kind::prefix,    Kind::prefix,   Kind::list,
        Kind::list, Kind::list,   Kind::internet,  Kind::private_,  Kind::local,    Kind::prefix,
        Kind::name, Kind::below,  Kind::any_below, Kind::multicast, Kind::broadcast};
    Destination destination;
    destination.kind = pick(random, kinds);
    destination.ports = rule.destination.ports;
    if (destination.kind == Kind::prefix) {
        destination.prefix = random_prefix(random);
    } else if (destination.kind == Kind::list) {
        destination.text = fmt::format("l{}", below(random, 4));
    } else if (is_name(destination)) {
        destination.text = pick(random, domains);
    }
    if (is_name(destination) || destination.kind == Kind::list) {
        rule.protocol.family = AF_UNSPEC; // a name has addresses of both
    }
    rule.options.resolved = chance(random, 10);
    if (chance(random, 5)) {
        destination.ports = {{0, static_cast<std::uint16_t>(below(random, 65536))}};
    }
    rule.destination = destination;
    if (chance(random, 30)) {
        rule.program = chance(random, 50) ? Program{}
                       : chance(random, 70)
                           ? Program{Program::Kind::path, own_program(random)}
                           : Program{Program::Kind::tree, chance(random, 50) ? "/srv" : "/srv/p1"};
    }
    if (chance(random, 5)) {
        rule.options.under = own_program(random);
    }
    if (chance(random, 5)) {
        // 18446744074 seconds are just over 64 bits of nanoseconds.
        constexpr std::array<std::int64_t, 5> ends = {0, boot_time - 5, boot_time,
                                                      boot_time + 18446744074,
                                                      253402300799}; // the end of the year 9999
        rule.options.until = pick(random, ends);
    }
    if (chance(random, 3)) {
        rule.options.cgroup = "/gone";
        rule.options.unit.clear();
    }
}

/// Draws a scene, one thing after the other.
class Draw {
  public:
    Draw(Random& random, const policy::Policy& policy, std::int64_t offset)
        : random_(random), policy_(policy), line_(pick(random, policy.egress)) {
        out_.offset = offset;
    }

    Scene scene() {
        address();
        names();
        port();
        kind();
        owner();
        program();
        lineage();
        place();
        time();
        return out_;
    }

  private:
    /// The line that is aimed at, mostly.
    const EgressRule& aim() { return chance(random_, 88) ? line_ : pick(random_, policy_.egress); }

    void address() {
        const auto& destination = aim().destination;
        Prefix prefix = *Prefix::parse(pick(random_, class_edges));
        if (destination.kind == Destination::Kind::prefix) {
            prefix = destination.prefix;
        } else if (destination.kind == Destination::Kind::list) {
            for (const auto& list : policy_.lists) {
                if (list->name == destination.text) {
                    prefix = pick(random_, list->prefixes);
                }
            }
        } else if (destination.kind == Destination::Kind::any && chance(random_, 50)) {
            prefix = random_prefix(random_);
        }
        out_.destination = at_edge(random_, prefix);
    }

    void names() {
        const auto& destination = aim().destination;
        if (is_name(destination) || chance(random_, 20)) {
            out_.names.emplace_back(pick(random_, domains));
        }
        if (is_name(destination) && chance(random_, 80)) {
            constexpr std::array<const char*, 3> heads = {"", "x.", "y.x."};
            out_.names.push_back(pick(random_, heads) + destination.text);
        }
        out_.answered = !out_.names.empty() || aim().options.resolved || chance(random_, 20);
    }

    void port() {
        const auto& ranges = aim().destination.ports;
        if (ranges.empty() || chance(random_, 5)) {
            out_.port = static_cast<std::uint16_t>(below(random_, 65536));
            return;
        }
        const auto& range = pick(random_, ranges);
        const auto edge = below(random_, 4);
        out_.port = static_cast<std::uint16_t>(edge == 0   ? range.first
                                               : edge == 1 ? range.last
                                               : edge == 2 ? range.first - 1
                                                           : range.last + 1);
    }

    void kind() {
        constexpr std::array<int, 5> protocols = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 255, 0};
        out_.type = aim().type.value_or(static_cast<int>(1 + below(random_, 6)));
        out_.protocol = aim().protocol.number.value_or(pick(random_, protocols));
    }

    void owner() {
        out_.uid = aim().owner.uid.value_or(pick(random_, ids));
        out_.gid = aim().owner.gid.value_or(pick(random_, ids));
    }

    void program() {
        const Program& program = aim().program;
        out_.host_path = chance(random_, 60);
        out_.lost_place = chance(random_, 5);
        out_.deleted = chance(random_, 5);
        out_.lost_lineage = chance(random_, 5);
        out_.command =
            program.kind == Program::Kind::command ? program.text : pick(random_, commands);
        out_.path = chance(random_, 80) ? pick(random_, paths) : own_program(random_);
        if (program.kind == Program::Kind::path && chance(random_, 70)) {
            out_.path = program.text;
        } else if (program.kind == Program::Kind::tree && chance(random_, 70)) {
            constexpr std::array<const char*, 5> ends = {"/p", "", "/x/y", "x", "/"};
            out_.path = program.text + pick(random_, ends);
        }
        // Mostly the file of the path; or of the line's, whatever the path says; or none's.
        out_.file = file(chance(random_, 70) || program.kind != Program::Kind::path ? out_.path
                                                                                    : program.text);
    }

    egress_file file(const std::string& path) {
        const auto files = files_of(path);
        return files.empty() || chance(random_, 10) ? unnamed_file : pick(random_, files);
    }

    void lineage() {
        const auto& options = aim().options;
        constexpr std::array<std::uint64_t, 4> depths = {0, 1, 3, EGRESS_MAX_ANCESTORS};
        const auto depth = pick(random_, depths);
        for (std::uint64_t i = 0; i < depth; ++i) {
            out_.ancestors.push_back(file(chance(random_, 50) ? pick(random_, paths) : "/"));
        }
        if (!options.under.empty() && depth > 0) {
            out_.ancestors[chance(random_, 50) ? depth - 1 : below(random_, depth)] =
                file(options.under);
        }
        if (!options.parent.empty() && depth > 0) {
            out_.ancestors.front() = file(options.parent);
        }
    }

    void place() {
        const auto& options = aim().options;
        out_.container = options.container.value_or(chance(random_, 50));
        out_.cgroup = below(random_, all_cgroups().size());
        for (int i = 0; i < 5; ++i) {
            policy::reference::Flow flow;
            flow.cgroup = all_cgroups()[out_.cgroup].path;
            auto wanted = options;
            wanted.container.reset();
            if (policy::reference::fits_place(wanted, flow)) {
                break;
            }
            out_.cgroup = below(random_, all_cgroups().size());
        }
    }

    void time() {
        const auto& options = aim().options;
        out_.now = monday + static_cast<std::int64_t>(below(random_, 7 * 86400));
        if (!options.when.empty() && chance(random_, 60)) {
            const auto& window = pick(random_, options.when);
            const int minute = chance(random_, 50) ? window.from : window.to;
            const auto day = static_cast<std::int64_t>(7 + below(random_, 8));
            out_.now = monday + day * 86400 + minute * 60 - out_.offset;
        } else if (options.until && chance(random_, 60)) {
            out_.now = *options.until;
        }
        out_.now += static_cast<std::int64_t>(below(random_, 3)) - 1;
        out_.now = std::clamp(out_.now, boot_time + 1, monday + 60 * 86400);
    }

    Random& random_;
    const policy::Policy& policy_;
    const EgressRule& line_;
    Scene out_;
};

} // namespace

policy::Policy random_policy(Random& random, std::size_t rules, bool crafted) {
    policy::Policy policy;
    policy::random_egress(random, policy, rules, false);
    if (crafted) {
        add_lists(random, policy);
        for (auto& rule : policy.egress) {
            if (chance(random, 90)) {
                craft(random, rule);
            }
        }
    }
    return policy;
}

Scene random_scene(Random& random, const policy::Policy& policy, std::int64_t offset) {
    return Draw(random, policy, offset).scene();
}

} // namespace egress::bpf
