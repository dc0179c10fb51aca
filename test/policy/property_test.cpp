// What must hold for every policy and every report, tried on very many.
#include <algorithm>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "daemon/policy/check.h"
#include "daemon/policy/egress/check.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "test/policy/random_egress.h"
#include "test/policy/reference.h"
#include "test/policy/scratch.h"

namespace egress::policy {

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t comparisons = 200000; // each is ten times as slow
#else
constexpr std::size_t comparisons = 1000000;
#endif

std::string text(const Rule* rule) {
    return rule == nullptr ? "no line" : print(*rule);
}

} // namespace

TEST_CASE("what is printed means what was printed") {
    Random random(seed());
    const Scratch scratch;
    for (const auto& list : random_lists()) {
        scratch.write(std::string("egress.d/") + list.name, list.text);
    }
    const Sources sources{scratch.path("egress.d"), ""};
    for (int round = 0; round < 1500; ++round) {
        const auto policy = random_policy(random, 1 + random() % 8, random() % 8);
        const auto printed = print(policy);
        const auto parsed = parse_text(printed, "printed", sources);
        for (const auto& diagnostic : parsed.diagnostics) {
            CHECK_MESSAGE(diagnostic.severity == Diagnostic::Severity::warning,
                          diagnostic.message());
        }
        REQUIRE_MESSAGE(same_meaning(parsed.policy, policy), printed);
        REQUIRE(print(parsed.policy) == printed);
    }
}

TEST_CASE("the index decides as the plain loop does") {
    Random random(seed());
    std::size_t compared = 0;
    std::size_t local_hits = 0;
    std::size_t remote_hits = 0;
    const auto number = [](std::string_view) { return NameId{0}; };
    for (int round = 0; compared < comparisons; ++round) {
        const std::size_t size = round % 50 == 0 ? 400 : 1 + random() % 24;
        const Matcher matcher(random_policy(random, size, size), "egress", number);
        for (int i = 0; i < 2000; ++i, ++compared) {
            const auto subject = random_subject(random);
            const Rule* const local = reference::local(matcher.policy(), subject);
            EffectiveRule decision; // its lines are null until one matches
            const bool matched = matcher.match(subject, decision);
            if (matched != (local != nullptr) || decision.local != local) {
                FAIL("[local]: " << text(decision.local) << " instead of " << text(local));
            }
            if (!matched) {
                continue;
            }
            const Rule* const remote = reference::remote(matcher.policy(), subject);
            if (decision.remote != remote) {
                FAIL("[remote]: " << text(decision.remote) << " instead of " << text(remote));
            }
            if (!decision.counted.contains(subject.remote.address)) {
                FAIL("counted " << decision.counted.text());
            }
            ++local_hits;
            remote_hits += remote != nullptr;
        }
    }
    fmt::print("{} reports, {} matched [local], {} [remote]\n", compared, local_hits, remote_hits);
    CHECK(local_hits > compared / 4); // else the test compares nothing
    CHECK(remote_hits > compared / 10);
}

TEST_CASE("a line that is said never to decide never decides") {
    Random random(seed());
    std::size_t covered = 0;
    for (std::size_t compared = 0; compared < comparisons; compared += 200) {
        Policy policy;
        random_egress(random, policy, 12);
        std::vector<const EgressRule*> hidden;
        for (std::size_t i = 1; i < policy.egress.size(); ++i) {
            for (std::size_t j = 0; j < i; ++j) {
                if (covers(policy.egress[j], policy.egress[i])) {
                    hidden.push_back(&policy.egress[i]);
                }
            }
        }
        covered += hidden.size();
        for (int i = 0; i < 200 && !hidden.empty(); ++i) {
            const auto* rule = reference::decide(policy, random_flow(random));
            if (std::ranges::find(hidden, rule) != hidden.end()) {
                FAIL("decides: " << print(*rule));
            }
        }
    }
    CHECK(covered > comparisons / 1000);
}

TEST_CASE("check() takes whatever parses") {
    Random random(seed());
    for (int round = 0; round < 200; ++round) {
        CHECK(check(random_policy(random, 20, 20)).size() <= max_diagnostics);
    }
}

} // namespace egress::policy
