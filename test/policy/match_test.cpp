#include "daemon/policy/login/exempt.h"
#include "test/policy/build.h"

namespace egress::policy {

TEST_CASE("no [local] line, no decision") {
    CHECK(Bench("").lines(tcp("198.51.100.7")) == "-");
    CHECK(Bench("smtp * * * * 3 1h").lines(tcp("198.51.100.7")) == "-");
    CHECK(Bench("[remote]\n* * * * * 3 1h").lines(tcp("198.51.100.7")) == "-");
}

TEST_CASE("the most specific line wins, whatever the order") {
    const Bench bench("*                * *    *    * 3 1h\n"   // 1
                      "ssh              * *    *    * 3 1h\n"   // 2
                      "192.0.2.0/24     * *    *    * 3 1h\n"   // 3
                      "192.0.2.0/24:ssh * *    *    * 3 1h\n"   // 4
                      "192.0.2.10       * *    *    * 3 1h\n"   // 5
                      "wan0:*           * *    *    * 3 1h\n"   // 6
                      "0.0.0.0/0        * *    *    * 3 1h\n"   // 7
                      "ssh              * tcp  *    * 3 1h\n"   // 8
                      "ssh              * tcp6 *    * 3 1h\n"   // 9
                      "25               stream * *  * 3 1h\n"   // 10
                      "25               * * 1000    * 3 1h\n"   // 11
                      "*                * tcp *     * 3 1h\n"); // 12
    const auto local = [&](std::string_view address, std::uint16_t port) {
        return bench.lines(tcp("198.51.100.7", port, address));
    };
    CHECK(local("192.0.2.10", 22) == "5");
    CHECK(local("192.0.2.11", 22) == "4");
    CHECK(local("192.0.2.11", 23) == "3");
    CHECK(local("203.0.113.1", 22) == "7");
    CHECK(bench.lines(tcp6("2001:db8::1")) == "9");
    CHECK(bench.lines(tcp6("2001:db8::1", 23)) == "12");
    CHECK(bench.lines(tcp6("2001:db8::1", 25)) == "10");
    auto owned = tcp6("2001:db8::1", 25);
    owned.type = SOCK_DGRAM;
    owned.protocol = IPPROTO_UDP;
    owned.uid = 1000;
    CHECK(bench.lines(owned) == "11");
    owned.uid = 1001;
    CHECK(bench.lines(owned) == "1");
    auto in = tcp("198.51.100.7");
    in.interface = "wan0";
    CHECK(bench.lines(in) == "6");
    in.interface = "wan";
    CHECK(bench.lines(in) == "5");
}

TEST_CASE("an interface line matches only its interface") {
    const Bench bench("eth0:ssh * * * * 3 1h\n");
    auto report = tcp("198.51.100.7");
    CHECK(bench.lines(report) == "1");
    for (const char* other : {"eth1", "eth", "eth00", ""}) {
        report.interface = other;
        CHECK(bench.lines(report) == "-");
    }
}

TEST_CASE("among equals the first line decides") {
    CHECK(Bench("ssh * * * * 3 1h\n22 * * * * 4 2h\n").lines(tcp("198.51.100.7")) == "1");
}

TEST_CASE("port, type, protocol, owner and family must fit") {
    const Bench bench("ssh stream tcp6 1000 * 3 1h");
    auto report = tcp6("2001:db8::1");
    report.uid = 1000;
    CHECK(bench.lines(report) == "1");
    auto other = report;
    other.uid = 0;
    CHECK(bench.lines(other) == "-");
    other = report;
    other.type = SOCK_DGRAM;
    CHECK(bench.lines(other) == "-");
    other = report;
    other.protocol = IPPROTO_UDP;
    CHECK(bench.lines(other) == "-");
    other = report;
    other.local.port = 23;
    CHECK(bench.lines(other) == "-");
    other.local.port = 0;
    CHECK(bench.lines(other) == "-");
    other = tcp("198.51.100.7");
    other.uid = 1000;
    CHECK(bench.lines(other) == "-");
}

TEST_CASE("tcp is both families, tcp4 and tcp6 are one each") {
    CHECK(Bench("ssh * tcp * * 3 1h").lines(tcp("198.51.100.7")) == "1");
    CHECK(Bench("ssh * tcp * * 3 1h").lines(tcp6("2001:db8::1")) == "1");
    CHECK(Bench("ssh * tcp4 * * 3 1h").lines(tcp("198.51.100.7")) == "1");
    CHECK(Bench("ssh * tcp4 * * 3 1h").lines(tcp6("2001:db8::1")) == "-");
    CHECK(Bench("ssh * tcp6 * * 3 1h").lines(tcp("198.51.100.7")) == "-");
}

TEST_CASE("a mapped address is its IPv4 address") {
    const Bench bench("192.0.2.10:ssh * * * * 3 1h\n[remote]\n198.51.100.0/24 * * * = 9 =\n");
    CHECK(bench.lines(tcp("::ffff:198.51.100.7", 22, "::ffff:192.0.2.10")) == "1+3");
    CHECK(Bench("[::]/0:ssh * * * * 3 1h").lines(tcp("198.51.100.7")) == "-");
    CHECK(Bench("[::]/0:ssh * * * * 3 1h").lines(tcp6("2001:db8::1")) == "1");
}

TEST_CASE("[remote] looks at the true remote address and the local port") {
    const Bench bench("*:* * * * */8 3 1h\n"
                      "[remote]\n"
                      "198.51.100.0/24    * * * = 4 =\n"   // 3
                      "198.51.100.7:ssh   * * * = 5 =\n"   // 4
                      "198.51.100.0/28    * * * = 6 =\n"   // 5
                      "[2001:db8::]/32    * * * = 7 =\n"   // 6
                      "smtp               * * * = 8 =\n"); // 7
    CHECK(bench.lines(tcp("198.51.100.7")) == "1+4");
    CHECK(bench.lines(tcp("198.51.100.7", 40)) == "1+5");
    CHECK(bench.lines(tcp("198.51.100.99")) == "1+3");
    CHECK(bench.lines(tcp("198.51.101.7")) == "1");
    CHECK(bench.lines(tcp("198.51.101.7", 25)) == "1+7");
    CHECK(bench.lines(tcp6("2001:db8:ffff::7")) == "1+6");
    CHECK(bench.decide(tcp("198.51.100.7")).counted.text() == "198.0.0.0/8");
}

TEST_CASE("the example of the documentation") {
    const Bench bench("192.168.1.1:ssh stream tcp * -int 10 1m\n"
                      "ssh stream * * * 6 60m escalate=2,max=7d\n"
                      "domain dgram udp * */24 20 10m\n"
                      "[remote]\n"
                      "10.0.0.0/8 * * * = * *\n"
                      "203.0.113.7 * * * = = 24h\n");
    CHECK(bench.lines(tcp("198.51.100.7", 22, "192.168.1.1")) == "1");
    CHECK(bench.names.text(bench.decide(tcp("1.2.3.4", 22, "192.168.1.1")).name) == "egress-int");
    CHECK_FALSE(bench.decide(tcp("10.3.4.5")).limited);
    CHECK(bench.decide(tcp("203.0.113.7")).disable == 86400);
    CHECK(bench.decide(tcp("203.0.113.7")).nfail == 6);
    CHECK(bench.decide(udp("203.0.113.9", 53)).counted.text() == "203.0.113.0/24");
    CHECK(bench.lines(tcp("203.0.113.9", 53)) == "-");
}

TEST_CASE("exemptions: what a block would touch, and what they cover") {
    const auto policy = good("[local]\n* * * * * 3 1h\n"
                             "[remote]\n"
                             "10.0.0.0/8 * * * = * *\n"
                             "10.1.0.0/16 * * * = 5 =\n"
                             "10.1.2.0/24:22 stream tcp * = * *\n"
                             "self * * * = * *\n"
                             "[2001:db8::]/32 * tcp6 * = * *\n"
                             "192.0.2.1 * * 33 = * *\n");
    const Exemptions exemptions(policy.remote);
    const std::vector<Prefix> own = {*Prefix::parse("127.0.0.0/8"), *Prefix::parse("10.1.9.9"),
                                     *Prefix::parse("2001:db9::1")};
    const auto line = [](const Rule* rule) { return rule == nullptr ? 0 : rule->place.line; };
    struct Case {
        const char* address;
        std::uint8_t protocol;
        std::uint16_t port;
        int touching;
        int covering;
    };
    for (const auto& [address, protocol, port, touching, covering] :
         std::initializer_list<Case>{{"10.2.0.1", 0, 0, 4, 4},
                                     {"10.2.0.0/16", 6, 22, 4, 4},
                                     {"10.0.0.0/8", 0, 0, 4, 0},
                                     {"0.0.0.0/0", 0, 0, 7, 0},
                                     {"10.1.0.1", 6, 22, 0, 0},
                                     {"10.1.0.0/16", 0, 0, 7, 0},
                                     {"10.1.2.7", 0, 0, 6, 0},
                                     {"10.1.2.7", 6, 22, 6, 6},
                                     {"10.1.2.7", 6, 23, 0, 0},
                                     {"10.1.2.7", 17, 22, 0, 0},
                                     {"10.1.9.9", 6, 23, 7, 7},
                                     {"10.1.9.8", 6, 23, 0, 0},
                                     {"127.3.0.0/16", 0, 0, 7, 7},
                                     {"2001:db9::/64", 0, 0, 7, 0},
                                     {"2001:db8::1", 6, 1, 8, 8},
                                     {"2001:db8::1", 17, 1, 0, 0},
                                     {"::/0", 0, 0, 7, 0},
                                     {"192.0.2.1", 0, 0, 0, 0},
                                     {"192.0.2.0/24", 0, 0, 0, 0}}) {
        INFO(std::string(address), " ", protocol, " ", port);
        const Exemptions::Target target{*Prefix::parse(address), protocol, port};
        CHECK(line(exemptions.touching(target, own)) == touching);
        CHECK(line(exemptions.covering(target, own)) == covering);
    }
}

} // namespace egress::policy
