// Whom lines cut off from the resolution of names.
#include "daemon/bpf/tables/lockout.h"
#include "test/bpf/build.h"

namespace egress::bpf {

namespace {

std::vector<policy::Diagnostic> found(const std::string& lines, const Asker& asker) {
    const auto policy = policy_of(lines);
    return lockouts(policy, tables_of(policy), shells_of(asker), {*Address::parse("127.0.0.53")},
                    0);
}

} // namespace

TEST_CASE("a lockout concerns root or the asker") {
    constexpr Asker root{0, 0};
    constexpr Asker admin{1000, 1000};
    CHECK(found("* * * 1000 * deny\n", root).empty());
    const auto goals = found("* * * 1000 * deny\n", admin);
    REQUIRE(goals.size() == 1);
    CHECK(goals[0].text == "lockout: the line refuses name resolution to a shell of the asker (uid "
                           "1000), by 127.0.0.53 port 53/udp");
    CHECK(found("* * * :1000 * deny\n", admin).size() == 1);
    CHECK(found("* * * root * deny\n", admin).size() == 1);
    CHECK(found("local:53 * * * * allow\n* * * * * deny\n", admin).empty());
}

TEST_CASE("what only records is no lockout") {
    CHECK(found("* * * * * deny audit\n", {0, 0}).empty());
    CHECK(found("*:80 * * * * deny\n", {0, 0}).empty());
}

} // namespace egress::bpf
