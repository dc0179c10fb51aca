// The compiled form says what the plain loop says, on very many rule sets and flows.
#include <array>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "daemon/policy/print/print.h"
#include "test/bpf/random_scene.h"
#include "test/policy/zone.h"

namespace egress::bpf {

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t comparisons = 100000; // each is ten times as slow
#else
constexpr std::size_t comparisons = 600000; // of each of two seeds
#endif
constexpr std::size_t scenes_a_policy = 1000;

struct NamedZone {
    const char* text;
    std::int64_t offset;
};
constexpr std::array<NamedZone, 3> zones = {
    {{"UTC0", 0}, {"EAST-05:30", 19800}, {"WEST+11", -39600}}};

/// Most are small: there each line decides often.
std::size_t random_size(Random& random) {
    const auto kind = random() % 20;
    return kind < 12 ? 1 + random() % 16 : kind < 18 ? 1 + random() % 128 : 1 + random() % 1024;
}

std::string said(const policy::Policy& policy, std::uint32_t rule) {
    if (rule == EGRESS_UNMATCHED) {
        return "unmatched";
    }
    return rule >= policy.egress.size() ? "broken"
                                        : fmt::format("{}: {}", rule, print(policy.egress[rule]));
}

struct Tally {
    std::size_t compared = 0;
    std::size_t matched = 0;
    std::size_t late = 0; ///< by a line after the tenth
};

void compare(Random& random, const policy::Policy& policy, std::int64_t offset, Tally& tally) {
    const auto tables = compile(policy, fake_world(), 1);
    REQUIRE_MESSAGE(tables.has_value(), tables.error().text);
    for (std::size_t i = 0; i < scenes_a_policy; ++i, ++tally.compared) {
        const auto scene = random_scene(random, policy, offset);
        const auto wanted = decide_plainly(policy, scene);
        const auto got = decide_compiled(*tables, scene).rule;
        if (got != wanted) {
            FAIL(scene.text() << "\n  wanted " << said(policy, wanted) << "\n  got    "
                              << said(policy, got));
        }
        tally.matched += wanted != EGRESS_UNMATCHED ? 1 : 0;
        tally.late += wanted != EGRESS_UNMATCHED && wanted >= 10 ? 1 : 0;
    }
}

void run(std::uint64_t seed) {
    Random random(seed);
    Tally tally;
    for (std::size_t round = 0; tally.compared < comparisons; ++round) {
        const auto& zone = zones[round % zones.size()];
        const policy::Zone in(zone.text);
        const auto size = round % 100 == 99 ? EGRESS_MAX_RULES : random_size(random);
        compare(random, random_policy(random, size, round % 4 != 0), zone.offset, tally);
    }
    fmt::print("{} flows, {} matched, {} after the tenth line\n", tally.compared, tally.matched,
               tally.late);
    // Else the draw would have lost its aim, and nothing be compared.
    CHECK(tally.matched > tally.compared / 4);
    CHECK(tally.late > tally.compared / 50);
}

} // namespace

TEST_CASE("the compiled form decides as the plain loop does") {
    SUBCASE("always the same draw") {
        run(4);
    }
    SUBCASE("another draw each time") {
        run(policy::seed());
    }
}

} // namespace egress::bpf
