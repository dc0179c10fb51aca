// What a [remote] line changes of what the [local] one said.
#include "test/policy/build.h"

namespace egress::policy {

namespace {

/// The decision of `local` and one [remote] line for everybody, for a report from `remote`.
EffectiveRule merged(std::string_view local, std::string_view remote_line, std::string_view remote,
                     std::string* name = nullptr) {
    const Bench bench(std::string(local) + "\n[remote]\n" + std::string(remote_line));
    auto subject = remote.find(':') == std::string_view::npos ? tcp(remote) : tcp6(remote);
    auto decision = bench.decide(subject);
    REQUIRE(decision.local != nullptr);
    if (name != nullptr) {
        *name = bench.names.text(decision.name);
    }
    decision.local = decision.remote = nullptr; // they die with the bench
    return decision;
}

std::string name_of(std::string_view local, std::string_view remote_line) {
    std::string name;
    merged(local, remote_line, "198.51.100.7", &name);
    return name;
}

std::string counted(std::string_view local, std::string_view remote_line, std::string_view remote) {
    return merged(local, remote_line, remote).counted.text();
}

} // namespace

TEST_CASE("'=' keeps, anything else replaces") {
    const auto kept = merged("ssh * * * * 6 1h", "* * * * = = =", "198.51.100.7");
    CHECK(kept.limited);
    CHECK(kept.nfail == 6);
    CHECK(kept.disable == 3600);
    const auto never = merged("ssh * * * * 6 1h", "* * * * = * *", "198.51.100.7");
    CHECK_FALSE(never.limited);
    CHECK(never.disable == forever);
    const auto other = merged("ssh * * * * * *", "* * * * = 2 24h", "198.51.100.7");
    CHECK(other.limited);
    CHECK(other.nfail == 2);
    CHECK(other.disable == 86400);
    const auto zero = merged("ssh * * * * 3 1h", "* * * * = = 0", "198.51.100.7");
    CHECK_FALSE(zero.limited);
}

TEST_CASE("names") {
    CHECK(name_of("ssh * * * * 6 1h", "* * * * = = =") == "egress");
    CHECK(name_of("ssh * * * -a 6 1h", "* * * * = = =") == "egress-a");
    CHECK(name_of("ssh * * * -a 6 1h", "* * * * * = =") == "egress");
    CHECK(name_of("ssh * * * a 6 1h", "* * * * -b = =") == "egress-b");
    CHECK(name_of("ssh * * * a 6 1h", "* * * * b = =") == "b");
    CHECK(name_of("ssh * * * a 6 1h", "* * * * /24 = =") == "a");
}

TEST_CASE("lengths, each for its family") {
    const std::string_view v4 = "198.51.100.7";
    const std::string_view v6 = "2001:db8:1:2::7";
    const auto alone = [](std::string_view local, std::string_view remote) {
        return counted(local, "203.0.113.1 * * * = = =", remote);
    };
    CHECK(alone("ssh * * * * 6 1h", v4) == "198.51.100.7");
    CHECK(alone("ssh * * * */24 6 1h", v4) == "198.51.100.0/24");
    CHECK(alone("ssh * * * */24 6 1h", v6) == v6);
    CHECK(alone("ssh * * * */64 6 1h", v6) == "2001:db8:1:2::/64");
    CHECK(alone("ssh * * * */64 6 1h", v4) == v4);
    CHECK(alone("ssh * tcp6 * */32 6 1h", v6) == "2001:db8::/32");
    CHECK(alone("ssh * * * */16/48 6 1h", v6) == "2001:db8:1::/48");
    CHECK(alone("ssh * * * */16/48 6 1h", v4) == "198.51.0.0/16");

    const std::string_view local = "ssh * * * */24/64 6 1h";
    CHECK(counted(local, "* * * * = = =", v4) == "198.51.100.0/24");
    CHECK(counted(local, "* * * * =/16 = =", v4) == "198.51.0.0/16");
    CHECK(counted(local, "* * * * =/16 = =", v6) == "2001:db8:1:2::/64");
    CHECK(counted(local, "* * * * =/48 = =", v6) == "2001:db8:1::/48");
    CHECK(counted(local, "* * * * =/* = =", v4) == v4);
    CHECK(counted(local, "* * * * -x = =", v4) == v4);
    CHECK(counted(local, "* * * * -x = =", v6) == v6);
    CHECK(counted(local, "* * * * * = =", v4) == v4);
    CHECK(counted(local, "* * * * -x/= = =", v4) == "198.51.100.0/24");
    CHECK(counted(local, "* * * * -x/16 = =", v4) == "198.51.0.0/16");
    CHECK(counted(local, "* * * * -x/16 = =", v6) == v6);
    CHECK(counted(local, "* * * * /16 = =", v4) == "198.51.0.0/16");
}

TEST_CASE("options are replaced one by one") {
    const std::string_view local =
        "ssh * * * * 6 1h escalate=2,max=7d,window=1h,grow=24:5,grow=48:6,kill,reject";
    const auto same = merged(local, "* * * * = = =", "198.51.100.7");
    CHECK(same.escalate_percent == 200);
    CHECK(same.max == 7 * 86400);
    CHECK(same.window == 3600);
    CHECK(same.kill);
    CHECK(same.reject);
    CHECK_FALSE(same.spoofable);
    CHECK(same.grow == LoginOptions::Grow{24, 5});
    CHECK(merged(local, "* * * * = = =", "2001:db8::1").grow == LoginOptions::Grow{48, 6});
    const auto other = merged(
        local, "* * * * = = = escalate=1,max=*,window=*,kill=no,drop,spoofable=count,grow=16:9",
        "198.51.100.7");
    CHECK(other.escalate_percent == 100);
    CHECK(other.max == forever);
    CHECK(other.window == forever);
    CHECK_FALSE(other.kill);
    CHECK_FALSE(other.reject);
    CHECK(other.spoofable);
    CHECK(other.grow == LoginOptions::Grow{16, 9});
    const auto one = merged(local, "* * * * = = = grow=16:9", "2001:db8::1");
    CHECK(one.grow == LoginOptions::Grow{48, 6});
    CHECK(one.kill);
}

TEST_CASE("growing to what is counted already is nothing") {
    CHECK(merged("ssh * * * */24 6 1h grow=24:5", "9.9.9.9 * * * = = =", "1.2.3.4").grow.count ==
          0);
    CHECK(merged("ssh * * * */24 6 1h grow=23:5", "9.9.9.9 * * * = = =", "1.2.3.4").grow.count ==
          5);
}

TEST_CASE("[trusted] lines by uid, the named one before '*'") {
    const Bench bench("[trusted]\n* * * *\nsmtp stream tcp 1000\nssh stream tcp 1000\n");
    const auto any = [](const Trusted&) { return true; };
    REQUIRE(bench.matcher.trusted(1000, any) != nullptr);
    CHECK(bench.matcher.trusted(1000, any)->place.line == 3);
    CHECK(bench.matcher.trusted(0, any)->place.line == 2);
    CHECK(Bench("[trusted]\nssh stream tcp 1000\n").matcher.trusted(0, any) == nullptr);
    CHECK(Bench("").matcher.trusted(0, any) == nullptr);
    const auto ssh = [](const Trusted& line) {
        return is_for(line, {*Address::parse("192.0.2.1"), 22}, SOCK_STREAM, IPPROTO_TCP);
    };
    CHECK(bench.matcher.trusted(1000, ssh)->place.line == 4);
    CHECK(bench.matcher.trusted(1001, ssh)->place.line == 2);
    CHECK(Bench("[trusted]\nsmtp stream tcp 1000\n").matcher.trusted(1000, ssh) == nullptr);
    CHECK(Bench("[trusted]\nssh stream tcp6 1000\n").matcher.trusted(1000, ssh) == nullptr);
    CHECK(Bench("[trusted]\nssh dgram * 1000\n").matcher.trusted(1000, ssh) == nullptr);
    CHECK(Bench("[trusted]\n192.0.3.0/24:ssh * * *\n").matcher.trusted(1000, ssh) == nullptr);
    CHECK(Bench("[trusted]\n192.0.2.0/24:ssh * * *\n").matcher.trusted(1000, ssh) != nullptr);
}

} // namespace egress::policy
