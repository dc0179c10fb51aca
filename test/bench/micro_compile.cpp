// [egress] rules and lists of a million prefixes -> the kernel's tables.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "daemon/bpf/tables/compile.h"
#include "daemon/policy/parser.h"

namespace egress::bpf {
namespace {

World empty_world() {
    World world;
    world.files = [](const std::string&) { return std::vector<egress_file>{}; };
    world.places = [](const std::string& path, bool) { return std::vector<Place>{{8, path}}; };
    world.subordinate = [](std::uint32_t, bool) { return std::vector<IdRange>{}; };
    return world;
}

std::size_t bytes_of(const Tables& tables) {
    const auto size = [](const auto& table) { return table.size() * sizeof(table[0]); };
    return sizeof(egress_base) + size(tables.vectors) + size(tables.runs) + size(tables.hosts6) +
           size(tables.prefixes6) + size(tables.names);
}

void measure(benchmark::State& state, const policy::Policy& policy) {
    Tables tables;
    for (auto _ : state) {
        auto made = compile(policy, empty_world(), 1);
        if (!made) {
            state.SkipWithError(made.error().text.c_str());
            return;
        }
        tables = std::move(*made);
    }
    state.counters["vectors"] = static_cast<double>(tables.vectors.size());
    state.counters["runs"] = static_cast<double>(tables.runs.size());
    state.counters["prefixes"] = static_cast<double>(tables.prefixes);
    state.counters["names"] = static_cast<double>(tables.names_used);
    state.counters["MiB"] = static_cast<double>(bytes_of(tables)) / (1 << 20);
}

/// Services on many addresses, each for a user and a program.
void rules(benchmark::State& state) {
    std::string text = "[egress]\n";
    for (int i = 0; i < state.range(0); ++i) {
        text += fmt::format("10.{}.{}.{}/{}:{},{}-{} stream tcp {} /usr/bin/p{} allow\n", i >> 8,
                            i & 255, 32 * (i % 8), 27 + i % 6, 1000 + i, 3000 + 2 * i, 3001 + 2 * i,
                            i % 50, i % 100);
    }
    const auto parsed = policy::parse_text(text, "bench");
    if (!parsed.ok()) {
        state.SkipWithError(parsed.diagnostics.front().message().c_str());
        return;
    }
    measure(state, parsed.policy);
}
BENCHMARK(rules)->Name("compile/rules")->Arg(10)->Arg(1000)->Unit(benchmark::kMillisecond);

/// As many ranges of ports as a thousand lines can name.
void ports(benchmark::State& state) {
    policy::Policy policy;
    std::mt19937_64 random(1);
    for (int i = 0; i < 1000; ++i) {
        auto& out = policy.egress.emplace_back().destination.ports;
        for (std::uint32_t next = random() % 256; out.size() < 128; next += 2 + random() % 500) {
            const auto first = std::min<std::uint32_t>(next, 65535);
            out.push_back({static_cast<std::uint16_t>(first), static_cast<std::uint16_t>(first)});
        }
    }
    measure(state, policy);
}
BENCHMARK(ports)->Name("compile/ports")->Unit(benchmark::kMillisecond);

enum Kind { hosts4, mixed4, hosts6, mixed6 };

/// Two lines that share a list; mixed: from half of the bits on.
void list(benchmark::State& state, Kind kind) {
    const std::string name = "bench";
    policy::AddressList list{name, name, {}, {}};
    std::mt19937_64 random(1);
    while (list.prefixes.size() < static_cast<std::size_t>(state.range(0))) {
        std::array<std::uint8_t, 16> bytes{};
        const std::size_t width = kind == hosts4 || kind == mixed4 ? 4 : 16;
        std::generate_n(bytes.begin(), width, [&] { return static_cast<std::uint8_t>(random()); });
        const auto address = Address::from_bytes(std::span(bytes).first(width)).value();
        const int bits = address.width();
        list.prefixes.push_back(Prefix::around(
            address, kind == hosts4 || kind == hosts6
                         ? bits
                         : bits - static_cast<int>(random() % static_cast<unsigned>(bits / 2))));
    }
    policy::Policy policy;
    for (int i = 0; i < 2; ++i) {
        auto& rule = policy.egress.emplace_back();
        rule.destination.kind = policy::Destination::Kind::list;
        rule.destination.text = name;
        rule.owner.uid = static_cast<std::uint32_t>(i);
    }
    policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    measure(state, policy);
}
#define EGRESS_LIST(kind)                                                                          \
    BENCHMARK_CAPTURE(list, kind, kind)                                                            \
        ->Name("compile/list/" #kind)                                                              \
        ->Arg(1000)                                                                                \
        ->Arg(100000)                                                                              \
        ->Arg(1000000)                                                                             \
        ->Unit(benchmark::kMillisecond)
EGRESS_LIST(hosts4);
EGRESS_LIST(mixed4);
EGRESS_LIST(hosts6);
EGRESS_LIST(mixed6);

/// Two lines that share a list of names.
void names(benchmark::State& state) {
    policy::AddressList list{"bench", "bench", {}, {}};
    for (int i = 0; i < state.range(0); ++i) {
        list.names.add(
            {policy::NameKind::exact, fmt::format("host-{}.example-{}.org", i, i % 1000)});
    }
    policy::Policy policy;
    for (int i = 0; i < 2; ++i) {
        auto& rule = policy.egress.emplace_back();
        rule.destination.kind = policy::Destination::Kind::list;
        rule.destination.text = "bench";
        rule.owner.uid = static_cast<std::uint32_t>(i);
    }
    policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    measure(state, policy);
}
BENCHMARK(names)->Name("compile/names")->Arg(1000)->Arg(1000000)->Unit(benchmark::kMillisecond);

} // namespace
} // namespace egress::bpf
