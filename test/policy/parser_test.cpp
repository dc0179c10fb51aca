#include <algorithm>

#include "daemon/base/suggest.h"
#include "daemon/policy/print/print.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/number.h"
#include "test/policy/build.h"

namespace egress::policy {

namespace {

/// The canonical form of one [local] line.
std::string one(std::string_view text) {
    const auto policy = good(text);
    REQUIRE(policy.local.size() == 1);
    return print(policy.local[0]);
}

Seconds time_of(std::string_view text) {
    const auto policy = good("ssh * * * * 3 " + std::string(text));
    REQUIRE(policy.local.size() == 1);
    return policy.local[0].disable.value;
}

} // namespace

TEST_CASE("locations") {
    const auto at = [](std::string_view text) {
        const auto line = one(std::string(text) + " * * * * 3 1h");
        return line.substr(0, line.find(' '));
    };
    CHECK(at("*") == "*");
    CHECK(at("*:*") == "*");
    CHECK(at("ssh") == "22");
    CHECK(at("22") == "22");
    CHECK(at("*:ssh") == "22");
    CHECK(at("0x16") == "22");
    CHECK(at("65535") == "65535");
    CHECK(at("192.0.2.1") == "192.0.2.1");
    CHECK(at("192.0.2.1:*") == "192.0.2.1");
    CHECK(at("192.0.2.1/32:ssh") == "192.0.2.1:22");
    CHECK(at("192.0.2.0/24:ssh") == "192.0.2.0/24:22");
    CHECK(at("0.0.0.0/0") == "0.0.0.0/0");
    CHECK(at("[2001:DB8::]/32:ssh") == "[2001:db8::]/32:22");
    CHECK(at("[2001:db8::1]:22") == "[2001:db8::1]:22");
    CHECK(at("[2001:db8::1]") == "[2001:db8::1]");
    CHECK(at("[*]:22") == "22");
    CHECK(at("[::ffff:192.0.2.1]:22") == "192.0.2.1:22");
    CHECK(at("[::ffff:192.0.2.0]/120") == "192.0.2.0/24");
    CHECK(at("lo") == "lo:*");
    CHECK(at("lo:ssh") == "lo:22");
    CHECK(at("bond0.100:ssh") == "bond0.100:22");
}

TEST_CASE("a bare address is a host, and its host bits are named") {
    const auto policy = good("192.0.2.1:ssh * * * * 3 1h");
    CHECK(policy.local[0].location.prefix->length == 32);
    CHECK(said("10.1.2.3/8:ssh * * * * 3 1h\n") ==
          "t:1:1: warning: '10.1.2.3/8' has bits set past its length; did you mean 10.0.0.0/8? It "
          "is read as that\n");
    CHECK(said("[2001:db8::1]/32 * * * * 3 1h\n").find("did you mean [2001:db8::]/32?") !=
          std::string::npos);
}

TEST_CASE("times add up and do not overflow") {
    CHECK(time_of("90") == 90);
    CHECK(time_of("90s") == 90);
    CHECK(time_of("1h30m") == 5400);
    CHECK(time_of("1h30") == 3630);
    CHECK(time_of("30m1h") == 5400);
    CHECK(time_of("1w2d3h4m5s") == 604800 + 2 * 86400 + 3 * 3600 + 4 * 60 + 5);
    CHECK(time_of("2147483647") == max_duration);
    CHECK(said("ssh * * * * 3 35791394m8").find("too long") != std::string::npos);
    CHECK(said("ssh * * * * 3 18446744073709551616").find("out of range") != std::string::npos);
    CHECK(said("ssh * * * * 3 2147483647w2147483647w").find("too long") != std::string::npos);
    for (const Seconds seconds : {1L, 59L, 60L, 3599L, 3600L, 86400L, 604801L, 2147483647L}) {
        CHECK(time_of(print_duration(seconds)) == seconds);
    }
    CHECK(print_duration(forever) == "*");
    CHECK(print_duration(0) == "0s");
    CHECK(print_duration(5400) == "1h30m");
}

TEST_CASE("names and lengths") {
    const auto name = [](std::string_view text, std::string_view proto = "*") {
        return good("ssh * " + std::string(proto) + " * " + std::string(text) + " 3 1h")
            .local[0]
            .name;
    };
    using Kind = Name::Kind;
    CHECK(name("*") == Name{Kind::standard, "", {}});
    CHECK(name("-int") == Name{Kind::append, "-int", {}});
    CHECK(name("other") == Name{Kind::literal, "other", {}});
    CHECK(name("/24") == Name{Kind::standard, "", {24, {}, false}});
    CHECK(name("*/24") == Name{Kind::standard, "", {24, {}, false}});
    CHECK(name("*/32") == Name{Kind::standard, "", {32, {}, false}});
    CHECK(name("*/33") == Name{Kind::standard, "", {{}, 33, false}});
    CHECK(name("*/64") == Name{Kind::standard, "", {{}, 64, false}});
    CHECK(name("*/24", "tcp6") == Name{Kind::standard, "", {{}, 24, false}});
    CHECK(name("*/24", "tcp4") == Name{Kind::standard, "", {24, {}, false}});
    CHECK(name("-x/24/64") == Name{Kind::append, "-x", {24, 64, false}});
    CHECK(name("-x/*") == Name{Kind::append, "-x", {32, 128, false}});
    const auto v6 = good("[2001:db8::1]:ssh * * * */24 3 1h").local[0].name;
    CHECK(v6.aggregate == Aggregate{{}, 24, false});
}

TEST_CASE("in [remote] '=' takes over and matches anything") {
    const auto policy = good("[remote]\n10.0.0.0/8:= = = = = = =\n10.0.0.0/8 * * * /24 = =\n"
                             "10.0.0.0/8 * * * -x/= = =\n10.0.0.0/8 * * * =/= = =\n");
    REQUIRE(policy.remote.size() == 4);
    const auto& all = policy.remote[0];
    CHECK_FALSE(all.location.port);
    CHECK_FALSE(all.type);
    CHECK_FALSE(all.protocol.number);
    CHECK_FALSE(all.owner);
    CHECK(all.name.kind == Name::Kind::inherit);
    CHECK(all.nfail.kind == Setting<std::uint32_t>::Kind::inherit);
    CHECK(all.disable.kind == Setting<Seconds>::Kind::inherit);
    CHECK(policy.remote[1].name == Name{Name::Kind::inherit, "", {24, {}, false}});
    CHECK(policy.remote[2].name == Name{Name::Kind::append, "-x", {{}, {}, true}});
    CHECK(policy.remote[3].name == Name{Name::Kind::inherit, "", {}});
}

TEST_CASE("sections begin anew in each place, and errors come all at once") {
    const auto parsed =
        parse_text("ssh x tcp * * y z\n[nope]\nx\n[remote]\n10.0.0.0/8 * * q = = =\n", "t");
    std::vector<std::string> places;
    for (const auto& diagnostic : parsed.diagnostics) {
        places.push_back(diagnostic.place.text());
    }
    CHECK(places == std::vector<std::string>{"t:1:5", "t:1:15", "t:1:17", "t:2:2", "t:5:16"});
}

TEST_CASE("warnings never crowd out errors, and both are bounded") {
    std::string text;
    for (int i = 0; i < 1000; ++i) {
        text += "ssh stream tcp * * 0 1h\n";
    }
    text += "ssh stream tcp * * x 1h\n";
    const auto warned = parse_text(text, "t");
    CHECK_FALSE(warned.ok());
    CHECK(warned.diagnostics.size() <= max_diagnostics);
    CHECK(warned.diagnostics.back().message() == "t: warning: 951 more warnings are not shown");
    for (int i = 0; i < 1000; ++i) {
        text += "nonsense\n";
    }
    const auto both = parse_text(text, "t");
    CHECK(both.diagnostics.size() == max_diagnostics);
}

TEST_CASE("what is quoted from the file is escaped and short") {
    CHECK(said("ssh \xc3\xa4\xe2\x80\xae * * * 3 1h").find("\\xe2\\x80\\xae") != std::string::npos);
    const auto long_word = said("ssh " + std::string(5000, 'x') + " * * * 3 1h");
    CHECK(long_word.size() < 250);
    const auto parsed = parse_text("x", "bad\nname\x1b");
    CHECK(parsed.diagnostics.at(0).place.text() == "bad\\nname\\x1b:1:1");
}

TEST_CASE("suggestions are near or not given") {
    constexpr std::string_view words[] = {"local", "remote", "trusted"};
    CHECK(egress::nearest("locla", words) == "local");
    constexpr std::string_view shorts[] = {"ssh", "tcp"};
    CHECK(egress::nearest("shs", shorts) == "ssh");
    CHECK(egress::nearest("tpc", shorts) == "tcp");
    CHECK(egress::nearest("icmp", shorts) == "");
    CHECK(egress::nearest("remote", words) == "remote");
    CHECK(egress::nearest("xyzzy", words) == "");
    CHECK(egress::nearest("", words) == "");
    CHECK(egress::nearest(std::string(100000, 'l'), words) == "");
}

TEST_CASE("a [remote] line for what no [local] line serves is warned of, another is not") {
    const auto never = [](std::string_view remote) {
        return said("ssh stream tcp4 0 * 3 1h\n[remote]\n" + std::string(remote) + " = =\n")
                   .find("3:1: warning: the line never decides") != std::string::npos;
    };
    CHECK_FALSE(never("10.0.0.0/8:ssh stream tcp root ="));
    CHECK_FALSE(never("10.0.0.0/8 * * * ="));
    CHECK(never("10.0.0.0/8:smtp * * * ="));
    CHECK(never("10.0.0.0/8 dgram * * ="));
    CHECK(never("10.0.0.0/8 * udp * ="));
    CHECK(never("10.0.0.0/8 * * 1000 ="));
    CHECK(never("[2001:db8::]/32 * * * ="));
}

TEST_CASE("users and services come from the machine") {
    CHECK(one("ssh * * root * 3 1h") == "22 * * 0 * 3 1h");
    CHECK(one("domain * * 1000 * 3 1h") == "53 * * 1000 * 3 1h");
    CHECK(said("sssh * * * * 3 1h").find("did you mean 'ssh'?") != std::string::npos);
    CHECK(said("ssh * * rot * 3 1h").find("did you mean 'root'?") != std::string::npos);
}

} // namespace egress::policy
