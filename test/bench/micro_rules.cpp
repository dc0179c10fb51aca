// Finding the lines that decide, and deciding.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/count/decide.h"
#include "daemon/policy/login/match.h"
#include "daemon/policy/parser.h"

namespace egress::policy {
namespace {

/// `rules` lines: services on many local addresses, exceptions for many remote prefixes.
std::string text_of(int rules) {
    std::string text = "[local]\n* stream tcp * * 3 10m escalate=2,max=1d\n";
    for (int i = 1; i < rules / 2; ++i) {
        text += fmt::format("10.{}.{}.1:{} stream tcp * svc{} 5 1h\n", i >> 8, i & 255,
                            1024 + i % 30000, i % 50);
    }
    text += "[remote]\n";
    for (int i = 0; i < rules - rules / 2; ++i) {
        text += fmt::format("172.{}.{}.0/{} * * * = * *\n", 16 + (i >> 8 & 15), i & 255,
                            24 + (i >> 12) % 8);
    }
    return text;
}

Subject subject_at(std::uint32_t i) {
    const std::uint32_t spread = i * 2654435761U;
    const std::array<std::uint8_t, 4> local = {10, static_cast<std::uint8_t>(spread >> 28),
                                               static_cast<std::uint8_t>(spread >> 16), 1};
    const std::array<std::uint8_t, 4> remote = {172, static_cast<std::uint8_t>(16 + (spread & 15)),
                                                static_cast<std::uint8_t>(spread >> 8),
                                                static_cast<std::uint8_t>(spread >> 20)};
    return {{*Address::from_bytes(local), 22},
            "eth0",
            {*Address::from_bytes(remote), 40000},
            SOCK_STREAM,
            IPPROTO_TCP,
            0};
}

void match(benchmark::State& state) {
    auto parsed = parse_text(text_of(static_cast<int>(state.range(0))), "bench");
    if (!parsed.ok()) {
        state.SkipWithError(parsed.diagnostics.front().message().c_str());
        return;
    }
    NameId names = 0;
    const Matcher matcher(std::move(parsed.policy), "egress",
                          [&names](std::string_view) { return names++; });
    std::vector<Subject> subjects;
    for (std::uint32_t i = 0; i < 4096; ++i) {
        subjects.push_back(subject_at(i));
    }
    std::size_t next = 0;
    EffectiveRule decision;
    for (auto _ : state) {
        benchmark::DoNotOptimize(matcher.match(subjects[next++ & 4095], decision));
    }
}
BENCHMARK(match)->Name("policy/match")->ArgName("rules")->Arg(10)->Arg(1000)->Arg(10000);

void parse(benchmark::State& state) {
    const std::string text = text_of(static_cast<int>(state.range(0)));
    for (auto _ : state) {
        NameId names = 0;
        const Matcher matcher(parse_text(text, "bench").policy, "egress",
                              [&names](std::string_view) { return names++; });
        benchmark::DoNotOptimize(matcher);
    }
}
BENCHMARK(parse)
    ->Name("policy/parse_and_index")
    ->ArgName("rules")
    ->Arg(1000)
    ->Arg(10000)
    ->Unit(benchmark::kMillisecond);

void decide_failure(benchmark::State& state) {
    const Rule rule;
    EffectiveRule decision;
    decision.local = &rule;
    decision.nfail = 3;
    decision.disable = 600;
    decision.escalate_percent = 200;
    decision.window = state.range(0) != 0 ? 60 : forever;
    Count counted;
    Past past;
    Moment now = 1000;
    for (auto _ : state) {
        const RowChange outcome = decide(decision, counted, past, egress::Action::fail, now);
        benchmark::DoNotOptimize(outcome);
        counted = outcome.next;
        if (outcome.effect == Effect::block) {
            counted = Count{};
            past.clear();
        }
        ++now;
    }
}
BENCHMARK(decide_failure)->Name("decide")->ArgName("window")->Arg(0)->Arg(1);

} // namespace
} // namespace egress::policy
