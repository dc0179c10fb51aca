// What must hold for every policy and every report, tried on very many.
#include <algorithm>
#include <array>
#include <tuple>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "daemon/policy/check.h"
#include "daemon/policy/egress/check.h"
#include "daemon/policy/login/pass_list.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "test/policy/build.h"
#include "test/policy/random_egress.h"
#include "test/policy/reference.h"
#include "test/policy/scratch.h"

namespace egress::policy {

namespace {

#ifdef EGRESS_SANITIZED
constexpr std::size_t comparisons = 200000; // each is ten times as slow
#else
constexpr std::size_t comparisons = 1000000;
#endif

std::string text(const Rule* rule) {
    return rule == nullptr ? "no line" : print(*rule);
}

/// True if the most specific exemption that matches lets the packet pass.
bool passes(const std::vector<PassEntry>& entries, const Subject& subject) {
    const PassEntry* best = nullptr;
    const auto rank = [](const PassEntry& each) {
        return std::tuple(each.source.length, each.port != 0, each.protocol != 0);
    };
    for (const PassEntry& each : entries) {
        if (each.source.contains(subject.remote.address) &&
            (each.port == 0 || each.port == subject.local.port) &&
            (each.protocol == 0 || each.protocol == subject.protocol) &&
            (best == nullptr || rank(each) > rank(*best))) {
            best = &each;
        }
    }
    return best != nullptr && best->passes;
}

} // namespace

TEST_CASE("the firewall lets pass whom [remote] never blocks") {
    Random random(seed());
    std::size_t passed = 0;
    std::size_t held = 0;
    for (int round = 0; round < 500; ++round) {
        Policy policy = random_policy(random, 0, 1 + random() % 24);
        // No packet shows its reporter; and a firewall knows protocols, not types of sockets.
        std::erase_if(policy.remote, [](const Rule& rule) {
            return rule.owner || rule.type || !rule.location.prefix || rule.location.self ||
                   rule.location.prefix->length == 0;
        });
        const auto listed = pass_list(policy.remote, {});
        CHECK(std::ranges::is_sorted(listed));
        const Matcher matcher(policy, "egress", [](std::string_view) { return NameId{0}; });
        for (int i = 0; i < 200; ++i) {
            const auto subject = random_subject(random);
            const Rule* const line = reference::remote(matcher.policy(), subject);
            const bool never =
                line != nullptr &&
                (line->nfail.kind == Setting<std::uint32_t>::Kind::unlimited ||
                 (line->disable.kind == Setting<Seconds>::Kind::value && line->disable.value == 0));
            if (passes(listed, subject) != never) {
                FAIL(print(policy) << text(line) << (never ? ": it does not pass " : ": it passes ")
                                   << subject.remote.address.text() << " port "
                                   << subject.local.port << " protocol " << subject.protocol);
            }
            (never ? passed : held) += line != nullptr;
        }
    }
    CHECK(passed > 500);
    CHECK(held > 500);
}

TEST_CASE("exemptions are what a firewall can match") {
    const auto listed = [](std::string_view text) {
        std::string out;
        for (const auto& each :
             pass_list(good(text).remote,
                       std::array{*Prefix::parse("127.0.0.0/8"), *Prefix::parse("2001:db8::7")})) {
            out += fmt::format("{} {} {} {};", each.passes ? "pass" : "hold", each.source.text(),
                               each.protocol, each.port);
        }
        return out;
    };
    CHECK(listed("[remote]\n192.0.2.7 * * * = 3 *\n").empty());
    CHECK(listed("[remote]\n192.0.2.7 * * root = * *\n").empty());
    CHECK(listed("[remote]\n192.0.2.0/24 * * * = * *\n192.0.2.7:22 stream * * = 3 *\n"
                 "198.51.100.7 * * * = 3 *\n") == "pass 192.0.2.0/24 0 0;hold 192.0.2.7 6 22;");
    CHECK(listed("[remote]\n192.0.2.0/24 * * * = * *\n192.0.2.7 * * root = 3 *\n") ==
          "pass 192.0.2.0/24 0 0;hold 192.0.2.7 0 0;");
    CHECK(listed("[remote]\nself * * * = * *\n") == "pass 127.0.0.0/8 0 0;pass 2001:db8::7 0 0;");
    CHECK(listed("[remote]\n* dgram * * = * *\n") == "pass ::/0 17 0;pass 0.0.0.0/0 17 0;");
    CHECK(listed("[remote]\n* * tcp6 * = * *\n* * tcp * = 3 *\n") == "pass ::/0 6 0;");
}

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
