// When a line is in force.
#include <limits>

#include "daemon/bpf/tables/schedule.h"
#include "test/bpf/build.h"
#include "test/policy/zone.h"

namespace egress::bpf {

namespace {

constexpr int day = 86400;

egress_rule compiled(const std::string& options) {
    const auto policy = policy_of("* * * * * deny " + options + "\n");
    const auto made = compile_rule(policy.egress.front(), boot_time);
    REQUIRE_MESSAGE(made.has_value(), made.error().text);
    return *made;
}

/// "60-120 ..." in hours of the week.
std::string hours(const egress_rule& rule) {
    std::string out;
    for (std::size_t i = 0; i < rule.windows_used; ++i) {
        out += (i > 0 ? " " : "") + std::to_string(rule.windows[i].from / 3600) + "-" +
               std::to_string(rule.windows[i].to / 3600);
    }
    return out;
}

bool holds(const Tables& tables, std::int64_t now, std::int64_t offset = 0) {
    Scene scene;
    scene.now = now;
    scene.offset = offset;
    const auto rule = decide_compiled(tables, scene).rule;
    REQUIRE((rule == 0 || rule == EGRESS_UNMATCHED));
    return rule == 0;
}

} // namespace

TEST_CASE("a line without a time always holds") {
    const auto rule = compiled("quiet");
    CHECK((rule.flags & EGRESS_RULE_TIMED) == 0);
    CHECK(rule.until == 0);
    CHECK(rule.windows_used == 0);
}

TEST_CASE("verdict and flags") {
    const auto policy = policy_of("* * * * * allow log,alarm\n* * * * * deny audit\n"
                                  "* * * * * reject quiet\n");
    const auto tables = tables_of(policy);
    CHECK(tables.base->rules[0].verdict == EGRESS_ALLOW);
    CHECK(tables.base->rules[0].flags == (EGRESS_RULE_LOG | EGRESS_RULE_ALARM));
    CHECK(tables.base->rules[1].verdict == EGRESS_DENY);
    CHECK(tables.base->rules[1].flags == EGRESS_RULE_AUDIT);
    CHECK(tables.base->rules[2].verdict == EGRESS_REJECT);
    CHECK(tables.base->rules[2].flags == EGRESS_RULE_QUIET);
    CHECK(tables.base->rules[2].line == 3);
    CHECK(tables.base->rules_used == 3);
}

TEST_CASE("windows become spans of the week") {
    CHECK(hours(compiled("when=Mon/08:00-18:00")) == "8-18");
    CHECK(hours(compiled("when=Mon-Wed/08:00-18:00")) == "8-18 32-42 56-66");
    CHECK(hours(compiled("when=Mon-Fri/22:00-06:00")) == "22-30 46-54 70-78 94-102 118-126");
    CHECK(hours(compiled("when=Sun/22:00-06:00")) == "0-6 166-168");
    CHECK(hours(compiled("when=Sun")) == "144-168");
    CHECK(hours(compiled("when=Mon,when=Tue")) == "0-48");
    CHECK(hours(compiled("when=Mon/08:00-12:00,when=Mon/10:00-14:00")) == "8-14");
    CHECK(hours(compiled("when=Mon/08:00-14:00,when=Mon/10:00-12:00")) == "8-14");
    CHECK(hours(compiled("when=12:00-12:00")) == "0-168");
}

TEST_CASE("the first second of a window counts, the one at its end does not") {
    const policy::Zone in("UTC0");
    const auto tables = tables_of(policy_of("* * * * * deny when=Mon/08:00-18:00\n"));
    CHECK_FALSE(holds(tables, monday + 8 * 3600 - 1));
    CHECK(holds(tables, monday + 8 * 3600));
    CHECK(holds(tables, monday + 18 * 3600 - 1));
    CHECK_FALSE(holds(tables, monday + 18 * 3600));
    CHECK_FALSE(holds(tables, monday + day + 9 * 3600));
    CHECK(holds(tables, monday + 7 * day + 9 * 3600));
    CHECK(holds(tables, monday + 520 * 7 * day + 9 * 3600));
}

TEST_CASE("over midnight and over the end of the week") {
    const auto tables = tables_of(policy_of("* * * * * deny when=Sun/22:00-06:00\n"));
    CHECK(holds(tables, monday));
    CHECK(holds(tables, monday + 6 * 3600 - 1));
    CHECK_FALSE(holds(tables, monday + 6 * 3600));
    CHECK_FALSE(holds(tables, monday + 7 * day - 2 * 3600 - 1));
    CHECK(holds(tables, monday + 7 * day - 2 * 3600));
    CHECK(holds(tables, monday + 7 * day - 1));
    CHECK(holds(tables, monday + 7 * day));
}

TEST_CASE("it is local time that counts") {
    const auto tables = tables_of(policy_of("* * * * * deny when=Mon/08:00-18:00\n"));
    CHECK(holds(tables, monday + 3 * 3600, 19800));
    CHECK_FALSE(holds(tables, monday + 3 * 3600, 0));
    CHECK(holds(tables, monday + 20 * 3600, -39600));
}

TEST_CASE("until ends on its second, and holds with a window only inside it") {
    const auto tables =
        tables_of(policy_of("* * * * * deny until=2026-11-30T09:00:00Z,when=Mon/08:00-18:00\n"));
    CHECK_FALSE(holds(tables, monday + 8 * 3600 - 1));
    CHECK(holds(tables, monday + 9 * 3600 - 1));
    CHECK_FALSE(holds(tables, monday + 9 * 3600));
}

TEST_CASE("until before the boot has ended, until far away has not") {
    CHECK_FALSE(holds(tables_of(policy_of("* * * * * deny until=1970-01-01T00:00:00Z\n")), monday));
    for (const char* year : {"2300", "2611", "2700", "9999"}) { // 584 years are 64 bits
        CHECK(holds(tables_of(policy_of(std::string("* * * * * deny until=") + year +
                                        "-06-18T23:34:27Z\n")),
                    monday));
    }
}

TEST_CASE("too many spans of time are told with their place") {
    policy::EgressRule rule;
    rule.place = {"rules", 7, 1};
    for (int i = 0; i < 9; ++i) {
        policy::Window window;
        window.days = 3;
        window.from = static_cast<std::uint16_t>(i * 100);
        window.to = static_cast<std::uint16_t>(i * 100 + 50);
        rule.options.when.push_back(window);
    }
    const auto made = compile_rule(rule, boot_time);
    REQUIRE_FALSE(made.has_value());
    CHECK(made.error().text.find("rules:7") != std::string::npos);
    CHECK(made.error().text.find("18 spans") != std::string::npos);
    rule.options.when.pop_back();
    CHECK(compile_rule(rule, boot_time)->windows_used == EGRESS_MAX_WINDOWS);
}

TEST_CASE("what is not there yet is told, never passed over") {
    policy::Policy policy;
    auto& rule = policy.egress.emplace_back();
    rule.verdict.kind = policy::Verdict::Kind::ask;
    CHECK_FALSE(compile(policy, fake_world(), 1).has_value());
}

} // namespace egress::bpf
