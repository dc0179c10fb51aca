#include "test/policy/random_egress.h"

#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>
#include <netinet/in.h>

#include "daemon/policy/egress/list.h"

namespace egress::policy {

namespace {

constexpr std::array<ListFile, 3> lists = {
    {{"bad", "10.0.0.0/9\n10.128.0.1\n203.0.113.0/24 # one\n2001:db8::/33\n"},
     {"all", "0.0.0.0/0\n::/0\n::ffff:10.0.0.0/104\n"},
     {"names.txt", "\xef\xbb\xbf*.example.org\r\n\r\n198.51.100.7\r\n**.example.net\r\nhost\r\n"}}};
constexpr std::array<const char*, 14> addresses = {
    "10.0.0.1",    "10.128.0.1", "10.1.2.3", "127.0.0.1",   "0.0.0.0", "203.0.113.77", "224.0.0.1",
    "192.0.2.200", "::1",        "::",       "2001:db8::1", "fe80::1", "fd00::1",      "ff02::1"};
constexpr std::array<const char*, 5> names = {"example.org", "a.example.org", "b.a.example.org",
                                              "host", "internet"};
constexpr std::array<std::uint16_t, 7> ports = {1, 22, 79, 80, 81, 443, 65535};
constexpr std::array<std::uint32_t, 4> ids = {0, 33, 1000, 4294967294};
constexpr std::array<const char*, 6> paths = {"/usr/bin/curl", "/usr/bin/wget", "/usr/sbin/sshd",
                                              "/opt/a#b/x",    "/usr/binx",     "/\xc3\xa4"};
constexpr std::array<const char*, 5> trees = {"", "/usr", "/usr/bin", "/opt/a#b", "/opt/a#b/x"};
constexpr std::array<const char*, 3> commands = {"curl", "[", "fifteen-bytes#x"};
constexpr std::array<const char*, 6> cgroups = {"/",
                                                "/guests.slice",
                                                "/guests.slice/a.scope",
                                                "/guests.slicer",
                                                "/system.slice/nginx.service/x",
                                                "/system.slice/nginx.service"};
constexpr std::array<const char*, 3> units = {"nginx.service", "guests.slice", "a.scope"};
constexpr std::int64_t start = 1796083200; // Tuesday, 2026-12-01, 00:00 UTC
constexpr std::int64_t week = 7 * 86400;

std::uint64_t below(Random& random, std::uint64_t bound) {
    return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(random);
}
bool chance(Random& random, int percent) {
    return below(random, 100) < static_cast<std::uint64_t>(percent);
}
template <typename List>
auto pick(Random& random, const List& list) {
    return list[below(random, list.size())];
}

std::vector<PortRange> random_ports(Random& random) {
    std::vector<PortRange> out;
    std::uint32_t next = 1;
    for (auto i = below(random, 4); i > 0 && next < 65000; --i) {
        const auto first = i == 1 && chance(random, 50)
                               ? std::max<std::uint32_t>(next, pick(random, ports))
                               : next + static_cast<std::uint32_t>(below(random, 100));
        const auto last = std::min<std::uint32_t>(
            65535,
            first + (chance(random, 50) ? 0 : static_cast<std::uint32_t>(below(random, 60))));
        out.push_back({static_cast<std::uint16_t>(first), static_cast<std::uint16_t>(last)});
        next = last + 2; // else the two would be one
    }
    return out;
}

Destination random_destination(Random& random, bool all) {
    using Kind = Destination::Kind;
    constexpr std::array<Kind, 6> common = {Kind::any,  Kind::prefix,   Kind::prefix,
                                            Kind::list, Kind::internet, Kind::private_};
    constexpr std::array<Kind, 6> rare = {Kind::local, Kind::multicast, Kind::broadcast,
                                          Kind::name,  Kind::below,     Kind::any_below};
    Destination out;
    out.kind = chance(random, 70) ? pick(random, common) : all ? pick(random, rare) : Kind::local;
    if (out.kind == Kind::prefix) {
        const auto address = *Address::parse(pick(random, addresses));
        const auto width = static_cast<std::uint64_t>(address.width());
        const auto length = chance(random, 40) ? width : below(random, width + 1);
        out.prefix = Prefix::around(address, static_cast<int>(length));
    }
    if (out.kind == Kind::list) {
        out.text = lists[below(random, all ? 3 : 2)].name;
    }
    if (out.kind == Kind::name || out.kind == Kind::below || out.kind == Kind::any_below) {
        out.text = pick(random, names);
    }
    if (chance(random, 50)) {
        out.ports = random_ports(random);
    }
    return out;
}

Window random_window(Random& random) {
    Window out;
    out.days = 1 + below(random, 127);
    if (chance(random, 70)) {
        out.from = static_cast<std::uint16_t>(below(random, 1440));
        out.to = static_cast<std::uint16_t>(1 + below(random, 1440));
    }
    return out;
}

void random_subject(Random& random, EgressOptions& out) {
    if (chance(random, 15)) {
        out.parent = pick(random, paths);
    }
    if (chance(random, 15)) {
        out.under = pick(random, paths);
    }
    if (chance(random, 15)) {
        out.cgroup = pick(random, cgroups);
    } else if (chance(random, 15)) {
        out.unit = pick(random, units);
    }
    if (chance(random, 20)) {
        out.container = chance(random, 50);
    }
    if (chance(random, 20)) {
        out.when.push_back(random_window(random));
        if (chance(random, 30)) {
            out.when.push_back(random_window(random));
        }
    }
    if (chance(random, 10)) {
        out.until = start + static_cast<std::int64_t>(below(random, week));
    }
}

void random_effect(Random& random, EgressOptions& out) {
    out.quiet = chance(random, 10);
    for (auto* flag : {&out.audit, &out.log, &out.alarm}) {
        *flag = !out.quiet && chance(random, 15);
    }
}

/// What later versions enforce.
void random_later(Random& random, EgressRule& rule) {
    auto& out = rule.options;
    if (chance(random, 20)) {
        constexpr auto most = std::numeric_limits<std::uint64_t>::max();
        const auto least = below(random, 8);
        out.token = TokenRange{least, chance(random, 30) ? most : least + below(random, 3)};
    }
    out.resolved = chance(random, 20);
    out.rebind = chance(random, 20);
    out.trap = !out.quiet && chance(random, 10);
    out.kill = (out.until || !out.when.empty()) && chance(random, 30);
    if (chance(random, 20)) {
        using Disable = Setting<Seconds>;
        out.nfail = static_cast<std::uint32_t>(1 + below(random, 2147483647));
        out.disable = chance(random, 20)
                          ? Disable{Disable::Kind::unlimited, 0}
                          : Disable{Disable::Kind::value,
                                    static_cast<Seconds>(1 + below(random, max_duration))};
        if (chance(random, 50)) {
            out.level = static_cast<EgressOptions::Level>(below(random, 3));
        }
    }
    if (chance(random, 20)) {
        rule.verdict.kind = chance(random, 50) ? Verdict::Kind::redirect : Verdict::Kind::ask;
        if (rule.verdict.kind == Verdict::Kind::redirect) {
            rule.verdict.target = {*Address::parse(pick(random, addresses)), pick(random, ports)};
        }
    }
}

Program random_program(Random& random) {
    switch (below(random, 6)) {
    case 0:
    case 1:
        return {Program::Kind::path, pick(random, paths)};
    case 2:
        return {Program::Kind::tree, pick(random, trees)};
    case 3:
        return {Program::Kind::command, pick(random, commands)};
    default:
        return {};
    }
}

AddressList read_list(const ListFile& file) {
    AddressList list{file.name, file.name, {}, {}};
    Diagnostics out;
    ListText text(list, out);
    text.feed(file.text);
    text.finish();
    return list;
}

} // namespace

std::span<const ListFile> random_lists() {
    return lists;
}

EgressRule random_egress_rule(Random& random, bool all) {
    constexpr std::array<Verdict::Kind, 3> verdicts = {Verdict::Kind::allow, Verdict::Kind::deny,
                                                       Verdict::Kind::reject};
    EgressRule rule;
    rule.destination = random_destination(random, all);
    if (chance(random, 30)) {
        rule.type = static_cast<int>(1 + below(random, 6));
    }
    if (chance(random, 50)) {
        constexpr std::array<int, 4> protocols = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 255};
        rule.protocol.number = pick(random, protocols);
        const bool forms =
            *rule.protocol.number == IPPROTO_TCP || *rule.protocol.number == IPPROTO_UDP;
        if (forms && chance(random, 30)) {
            rule.protocol.family = chance(random, 50) ? AF_INET : AF_INET6;
        }
    }
    if (is_name(rule.destination)) {
        rule.protocol.family = AF_UNSPEC;
    }
    if (chance(random, 30)) {
        rule.owner.uid = pick(random, ids);
    }
    if (chance(random, 20)) {
        rule.owner.gid = pick(random, ids);
    }
    rule.program = random_program(random);
    rule.verdict.kind = pick(random, verdicts);
    if (chance(random, 60)) {
        random_subject(random, rule.options);
        random_effect(random, rule.options);
    }
    if (all) {
        random_later(random, rule);
    }
    return rule;
}

void random_egress(Random& random, Policy& policy, std::size_t rules, bool all) {
    for (std::size_t i = 0; i < rules; ++i) {
        auto& rule = policy.egress.emplace_back(random_egress_rule(random, all));
        rule.place = Place{"random", static_cast<int>(i) + 1, 1};
        const auto& destination = rule.destination;
        const auto same = [&](const auto& list) { return list->name == destination.text; };
        if (destination.kind != Destination::Kind::list ||
            std::ranges::any_of(policy.lists, same)) {
            continue;
        }
        const auto file = std::ranges::find_if(
            lists, [&](const ListFile& each) { return destination.text == each.name; });
        policy.lists.push_back(std::make_shared<const AddressList>(read_list(*file)));
    }
}

reference::Flow random_flow(Random& random) {
    constexpr std::array<int, 4> protocols = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 250};
    reference::Flow flow;
    flow.destination = *Address::parse(pick(random, addresses));
    flow.port =
        chance(random, 70) ? pick(random, ports) : static_cast<std::uint16_t>(below(random, 300));
    flow.type = static_cast<int>(1 + below(random, 6));
    flow.protocol = pick(random, protocols);
    flow.uid = chance(random, 80) ? pick(random, ids) : 7;
    flow.gid = chance(random, 80) ? pick(random, ids) : 7;
    flow.program = pick(random, paths);
    flow.command = pick(random, commands);
    for (auto i = below(random, 4); i > 0; --i) {
        flow.ancestors.emplace_back(pick(random, paths));
    }
    flow.cgroup = pick(random, cgroups);
    flow.token = below(random, 12);
    flow.container = chance(random, 50);
    if (chance(random, 30)) {
        flow.names.emplace_back(pick(random, names));
    }
    flow.answered = !flow.names.empty() || chance(random, 20);
    flow.now = start + static_cast<std::int64_t>(below(random, week));
    return flow;
}

} // namespace egress::policy
