#include "test/policy/random_policy.h"

#include <array>
#include <chrono>
#include <cstdlib>

#include <fmt/format.h>
#include <netinet/in.h>

#include "test/policy/random_egress.h"

namespace egress::policy {

namespace {

constexpr std::array<const char*, 4> interfaces = {"eth0", "eth1", "wan0", "br-lan"};
constexpr std::array<std::uint16_t, 5> ports = {22, 25, 53, 443, 65535};
constexpr std::array<int, 4> protocols = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, 255};
constexpr std::array<std::uint32_t, 4> owners = {0, 1000, 1001, 4294967294};

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

/// Close to one of few bases, so that prefixes nest and cover.
Address random_address(Random& random) {
    std::array<std::uint8_t, 16> bytes{};
    const bool v4 = chance(random, 50);
    const std::size_t width = v4 ? 4 : 16;
    bytes[0] = v4 ? 10 : 0x20;
    for (std::size_t i = 1; i < width; ++i) {
        if (chance(random, 30)) {
            bytes[i] = static_cast<std::uint8_t>(1U << below(random, 8));
        }
    }
    if (chance(random, 2)) {
        bytes = {};
    }
    return *Address::from_bytes(std::span(bytes).first(width));
}

Location random_location(Random& random, bool interface) {
    Location location;
    if (interface && chance(random, 15)) {
        location.interface = pick(random, interfaces);
    } else if (!interface && chance(random, 10)) {
        location.self = true;
    } else if (chance(random, 75)) {
        const auto address = random_address(random);
        const auto width = static_cast<std::uint64_t>(address.width());
        const auto length = chance(random, 40) ? width : below(random, width + 1);
        location.prefix = Prefix::around(address, static_cast<int>(length));
    }
    if (chance(random, 60)) {
        location.port = pick(random, ports);
    }
    return location;
}

void random_match(Random& random, auto& line, bool interface) {
    line.location = random_location(random, interface);
    if (chance(random, 40)) {
        line.type = static_cast<int>(1 + below(random, 10));
        line.type = chance(random, 80) ? static_cast<int>(1 + below(random, 2)) : *line.type;
    }
    if (chance(random, 60)) {
        line.protocol.number = pick(random, protocols);
        if (*line.protocol.number <= IPPROTO_UDP && chance(random, 40)) {
            line.protocol.family = chance(random, 50) ? AF_INET : AF_INET6;
        }
    }
    if (chance(random, 30)) {
        line.owner = pick(random, owners);
    }
}

/// Only what one text can say: see Aggregate.
Aggregate random_aggregate(Random& random, int family, bool remote, bool inherit) {
    const auto length = [&](std::uint64_t least, std::uint64_t most) {
        return static_cast<std::uint8_t>(least + below(random, most - least + 1));
    };
    switch (below(random, remote ? 5 : 4)) {
    case 0:
        return {length(1, 32), length(1, 128), false};
    case 1:
        return family == AF_INET6 ? Aggregate{{}, length(1, 128), false}
                                  : Aggregate{length(1, 32), {}, false};
    case 2:
        return family == AF_INET ? Aggregate{length(1, 32), {}, false}
                                 : Aggregate{{}, length(33, 128), false};
    case 3:
        return {};
    default:
        return {{}, {}, !inherit};
    }
}

Name random_name(Random& random, int family, bool remote) {
    constexpr std::array<const char*, 3> literals = {"other", "a.b_c-d", "22"};
    Name name;
    switch (below(random, remote ? 4 : 3)) {
    case 0:
        break;
    case 1:
        name = {Name::Kind::append, chance(random, 50) ? "-int" : "-x", {}};
        break;
    case 2:
        name = {Name::Kind::literal, pick(random, literals), {}};
        break;
    default:
        name.kind = Name::Kind::inherit;
    }
    name.aggregate = random_aggregate(random, family, remote, name.kind == Name::Kind::inherit);
    return name;
}

template <typename T>
Setting<T> random_setting(Random& random, bool remote, T most) {
    using Kind = typename Setting<T>::Kind;
    const auto kind = below(random, remote ? 4 : 3);
    if (kind == 0) {
        return {Kind::unlimited, 0};
    }
    if (kind == 3) {
        return {Kind::inherit, 0};
    }
    const auto bound = chance(random, 20) ? static_cast<std::uint64_t>(most) : 20;
    return {Kind::value, static_cast<T>(1 + below(random, bound))};
}

LoginOptions random_options(Random& random) {
    LoginOptions options;
    const auto time = [&]() -> Seconds {
        return chance(random, 10) ? forever : static_cast<Seconds>(1 + below(random, max_duration));
    };
    if (chance(random, 30)) {
        options.escalate_percent = static_cast<std::uint32_t>(100 + below(random, 1000));
    }
    if (chance(random, 30)) {
        options.max = time();
    }
    if (chance(random, 30)) {
        options.window = time();
    }
    for (const auto& [least, most] : {std::pair{1, 32}, std::pair{33, 128}}) {
        if (chance(random, 20)) {
            const auto range = static_cast<std::uint64_t>(most - least + 1);
            options.grow.push_back({static_cast<std::uint8_t>(static_cast<std::uint64_t>(least) +
                                                              below(random, range)),
                                    static_cast<std::uint32_t>(2 + below(random, 1000))});
        }
    }
    for (auto* flag : {&options.kill, &options.reject, &options.spoofable, &options.by_name,
                       &options.all_ports, &options.keep}) {
        if (chance(random, 20)) {
            *flag = chance(random, 50);
        }
    }
    return options;
}

Rule random_rule(Random& random, bool remote) {
    Rule rule;
    random_match(random, rule, !remote);
    rule.name = random_name(random, family_of(rule.location, rule.protocol), remote);
    rule.nfail = random_setting<std::uint32_t>(random, remote, 2147483647);
    rule.disable = random_setting<Seconds>(random, remote, max_duration);
    if (chance(random, 50)) {
        rule.options = random_options(random);
    }
    return rule;
}

} // namespace

std::uint64_t seed() {
    const char* given = std::getenv("EGRESS_SEED");
    const auto value = given != nullptr
                           ? std::strtoull(given, nullptr, 10)
                           : static_cast<std::uint64_t>(
                                 std::chrono::steady_clock::now().time_since_epoch().count());
    fmt::print("repeat with EGRESS_SEED={}\n", value);
    return value;
}

Policy random_policy(Random& random, std::size_t local, std::size_t remote) {
    Policy policy;
    const auto place = [](std::size_t i) { return Place{"random", static_cast<int>(i) + 1, 1}; };
    for (std::size_t i = 0; i < local; ++i) {
        policy.local.push_back(random_rule(random, false));
        policy.local.back().place = place(i);
    }
    for (std::size_t i = 0; i < remote; ++i) {
        policy.remote.push_back(random_rule(random, true));
        policy.remote.back().place = place(i);
    }
    for (auto i = below(random, 4); i > 0; --i) {
        random_match(random, policy.trusted.emplace_back(), true);
        policy.trusted.back().cgroup = chance(random, 50) ? "" : "/mail.slice/smtp.service";
    }
    random_egress(random, policy, below(random, 8));
    if (chance(random, 50)) {
        policy.settings.rows = 100 + below(random, 100000000 - 100);
    }
    for (auto i = below(random, 4); i > 0; --i) {
        const auto last = static_cast<std::uint8_t>(i);
        std::array<std::uint8_t, 16> v6 = {0x20, 0x01, 0x0d, 0xb8};
        v6[15] = last;
        const auto address =
            chance(random, 50) ? *Address::from_bytes(std::array<std::uint8_t, 4>{192, 0, 2, last})
                               : *Address::from_bytes(v6);
        policy.dns.resolvers.push_back({address, pick(random, ports)});
    }
    if (chance(random, 30)) {
        policy.dns.grace = static_cast<Seconds>(1 + below(random, 86400));
    }
    if (below(random, 4) == 0) {
        policy.dns.refresh = below(random, 2) == 0;
        policy.dns.queries_listed = below(random, 2) == 0;
        policy.dns.others = static_cast<policy::Dns::Others>(below(random, 3));
    }
    return policy;
}

Subject random_subject(Random& random) {
    Subject subject;
    subject.local = {random_address(random),
                     chance(random, 5) ? std::uint16_t{0} : pick(random, ports)};
    subject.interface = chance(random, 20) ? "" : pick(random, interfaces);
    subject.remote = {random_address(random), pick(random, ports)};
    subject.remote_own = chance(random, 20);
    subject.type = static_cast<int>(below(random, 4));
    subject.protocol = chance(random, 5) ? 0 : pick(random, protocols);
    subject.uid = pick(random, owners);
    return subject;
}

} // namespace egress::policy
