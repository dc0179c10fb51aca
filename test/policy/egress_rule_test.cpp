// What each column of [egress] matches, by hand, through the plain matcher.
#include <sstream>

#include <netinet/in.h>

#include "daemon/policy/egress/check.h"
#include "daemon/policy/print/print.h"
#include "test/policy/build.h"
#include "test/policy/corpus.h"
#include "test/policy/egress_reference.h"
#include "test/policy/zone.h"

namespace egress::policy {

namespace {

using reference::Flow;

Parsed parsed(std::string_view lines) {
    return parse_text("[egress]\n" + std::string(lines), "t", corpus_sources());
}

/// Every message.
std::string complaints(std::string_view lines) {
    const auto read = parsed(lines);
    std::string out;
    for (const auto& diagnostic : read.diagnostics) {
        out += diagnostic.message() + "\n";
    }
    for (const auto& warning : check(read.policy, corpus_sources())) {
        out += warning.message() + "\n";
    }
    return out;
}

Flow tcp_to(std::string_view address, std::uint16_t port) {
    Flow flow;
    flow.destination = *Address::parse(address);
    flow.port = port;
    flow.type = SOCK_STREAM;
    flow.protocol = IPPROTO_TCP;
    flow.uid = flow.gid = 1000;
    flow.program = "/usr/bin/curl";
    flow.command = "curl";
    flow.ancestors = {"/bin/sh", "/usr/sbin/sshd", "/sbin/init"};
    flow.cgroup = "/user.slice/session.scope";
    flow.now = 1796083200; // Tuesday, 2026-12-01, 00:00 UTC
    return flow;
}

/// Whether one line matches.
bool matches(std::string_view line, const Flow& flow) {
    const auto read = parsed(line);
    CHECK_MESSAGE(read.ok(), line);
    return reference::decide(read.policy, flow) != nullptr;
}

bool to(std::string_view destination, std::string_view address, std::uint16_t port = 443) {
    return matches(std::string(destination) + " * * * * deny", tcp_to(address, port));
}

bool by(std::string_view columns, const Flow& flow) {
    return matches("* " + std::string(columns), flow);
}

bool with(std::string_view options, const Flow& flow) {
    return matches("* * * * * deny " + std::string(options), flow);
}

} // namespace

TEST_CASE("[egress] destination: addresses") {
    CHECK(to("*", "192.0.2.1"));
    CHECK(to("192.0.2.1", "192.0.2.1"));
    CHECK_FALSE(to("192.0.2.1", "192.0.2.2"));
    CHECK(to("192.0.2.0/24", "192.0.2.255"));
    CHECK_FALSE(to("192.0.2.0/24", "192.0.3.0"));
    CHECK(to("0.0.0.0/0", "192.0.2.1"));
    CHECK_FALSE(to("0.0.0.0/0", "2001:db8::1"));
    CHECK(to("[::]/0", "2001:db8::1"));
    CHECK_FALSE(to("[::]/0", "192.0.2.1"));
    CHECK(to("[::ffff:0:0]/96", "192.0.2.1"));
    CHECK_FALSE(to("[::ffff:0:0]/96", "2001:db8::1"));
    CHECK(to("192.0.2.0/24", "::ffff:192.0.2.7"));
    CHECK(to("[2001:db8::]/32", "2001:db8:1::"));
    CHECK_FALSE(to("[2001:db8::]/32", "2001:db9::"));
}

TEST_CASE("[egress] destination: ports") {
    CHECK(to("*:80,443", "192.0.2.1", 443));
    CHECK_FALSE(to("*:80,443", "192.0.2.1", 81));
    CHECK(to("192.0.2.1:https", "192.0.2.1", 443));
    CHECK(to("192.0.2.1:20-22", "192.0.2.1", 21));
    CHECK(to("192.0.2.1:ftp-data-ssh", "192.0.2.1", 21));
    CHECK_FALSE(to("192.0.2.1:ftp-data-ssh", "192.0.2.1", 23));
    CHECK(to("[2001:db8::1]:http-alt", "2001:db8::1", 8080));
    CHECK(to("*:*", "192.0.2.1", 0));
    CHECK_FALSE(to("*:1-65535", "192.0.2.1", 0));
    const auto ports = [](std::string_view text) {
        return parsed("*:" + std::string(text) + " * * * * deny")
            .policy.egress.at(0)
            .destination.ports;
    };
    using Ports = std::vector<PortRange>;
    CHECK(ports("3,1,2") == Ports{{1, 3}});
    CHECK(ports("5-9,1-6,65535") == Ports{{1, 9}, {65535, 65535}});
    CHECK(ports("65534,65535") == Ports{{65534, 65535}});
    std::string many = "1";
    for (int port = 3; port < 2 * 128; port += 2) {
        many += "," + std::to_string(port);
    }
    CHECK(ports(many).size() == max_port_ranges);
    CHECK(complaints("*:" + many + ",999 * * * * deny").find("129 ranges of ports") !=
          std::string::npos);
}

TEST_CASE("[egress] destination: classes") {
    for (const char* address : {"127.0.0.1", "127.255.0.1", "0.0.0.0", "::1", "::"}) {
        CHECK_MESSAGE(to("local", address), address);
        CHECK_FALSE_MESSAGE(to("private", address), address);
        CHECK_FALSE_MESSAGE(to("internet", address), address);
    }
    for (const char* address : {"10.0.0.1", "172.31.255.255", "192.168.0.1", "100.127.0.1",
                                "169.254.169.254", "fe80::1", "fd00::1"}) {
        CHECK_MESSAGE(to("private", address), address);
        CHECK_FALSE_MESSAGE(to("local", address), address);
        CHECK_FALSE_MESSAGE(to("internet", address), address);
    }
    for (const char* address : {"1.1.1.1", "172.32.0.1", "100.128.0.1", "223.255.255.255",
                                "2001:db8::1", "64:ff9b::a00:1", "64:ff9b:1:2::a00:1"}) {
        CHECK_MESSAGE(to("internet", address), address);
        CHECK_FALSE_MESSAGE(to("private", address), address);
    }
    for (const char* address : {"224.0.0.1", "255.255.255.255", "0.1.2.3", "ff02::1", "fec0::1"}) {
        CHECK_FALSE_MESSAGE(to("internet", address), address);
        CHECK_FALSE_MESSAGE(to("private", address), address);
        CHECK_FALSE_MESSAGE(to("local", address), address);
    }
    for (const char* address : {"224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"}) {
        CHECK_MESSAGE(to("multicast", address), address);
        CHECK_FALSE_MESSAGE(to("broadcast", address), address);
    }
    CHECK(to("broadcast", "255.255.255.255"));
    for (const char* address : {"240.0.0.1", "223.255.255.255", "255.255.255.255", "fe80::1"}) {
        CHECK_FALSE_MESSAGE(to("multicast", address), address);
    }
    CHECK_FALSE(to("broadcast", "255.255.255.254"));
    CHECK_FALSE(to("internet:80", "1.1.1.1", 443));
}

TEST_CASE("[egress] destination: names and lists") {
    auto flow = tcp_to("192.0.2.1", 443);
    flow.names = {"a.example.org"};
    const auto named = [&](std::string_view name) {
        return matches(std::string(name) + " * * * * deny", flow);
    };
    CHECK(named("A.Example.Org."));
    CHECK(named("*.example.org:443"));
    CHECK(named("**.example.org"));
    CHECK(named("**.org"));
    CHECK_FALSE(named("*.org"));
    CHECK_FALSE(named("example.org"));
    CHECK_FALSE(named("*.a.example.org"));
    CHECK_FALSE(named("*.ample.org"));
    CHECK_FALSE(named("@bad-hosts"));
    flow.names = {"deep.www.example.com"};
    CHECK(named("@updates"));
    CHECK(to("@bad-hosts", "203.0.113.200"));
    CHECK(to("@bad-hosts", "2001:db8:bad::1"));
    CHECK(to("@bad-hosts:443", "198.51.100.7"));
    CHECK_FALSE(to("@bad-hosts:80", "198.51.100.7"));
    CHECK_FALSE(to("@bad-hosts", "198.51.100.8"));
    const auto policy = parsed("@bad-hosts * * * * deny\n@updates * * * * deny\n"
                               "@bad-hosts:80 * * * * deny\n")
                            .policy;
    REQUIRE(policy.lists.size() == 2);
    CHECK(policy.lists[0]->name == "bad-hosts");
    CHECK(policy.lists[0]->prefixes.size() == 3);
    CHECK(policy.lists[1]->names.size() == 2);
}

TEST_CASE("[egress] type, proto, owner") {
    auto flow = tcp_to("192.0.2.1", 443);
    CHECK(by("stream tcp * * deny", flow));
    CHECK(by("1 6 * * deny", flow));
    CHECK(by("* tcp4 * * deny", flow));
    CHECK_FALSE(by("* tcp6 * * deny", flow));
    CHECK_FALSE(by("dgram * * * deny", flow));
    CHECK_FALSE(by("* udp * * deny", flow));
    CHECK_FALSE(by("raw * * * deny", flow));
    flow.type = SOCK_RAW;
    flow.protocol = IPPROTO_ICMP;
    CHECK(by("raw icmp * * deny", flow));
    flow.uid = 33;
    flow.gid = 50;
    CHECK(by("* * www-data * deny", flow));
    CHECK(by("* * www-data:staff * deny", flow));
    CHECK(by("* * :staff * deny", flow));
    CHECK(by("* * 33:50 * deny", flow));
    CHECK_FALSE(by("* * alice:staff * deny", flow));
    CHECK_FALSE(by("* * www-data:www-data * deny", flow));
    CHECK_FALSE(by("* * root * deny", flow));
}

TEST_CASE("[egress] program and lineage") {
    const auto flow = tcp_to("192.0.2.1", 443);
    CHECK(by("* * * /usr/bin/curl deny", flow));
    CHECK_FALSE(by("* * * /usr/bin/wget deny", flow));
    CHECK_FALSE(by("* * * /usr/bin deny", flow));
    CHECK(by("* * * /usr/bin/** deny", flow));
    CHECK(by("* * * /** deny", flow));
    CHECK_FALSE(by("* * * /usr/bi/** deny", flow));
    CHECK_FALSE(by("* * * /usr/bin/curl/** deny", flow));
    CHECK(by("* * * curl deny", flow));
    CHECK_FALSE(by("* * * cur deny", flow));
    CHECK(with("parent=/bin/sh", flow));
    CHECK_FALSE(with("parent=/usr/sbin/sshd", flow));
    CHECK(with("under=/usr/sbin/sshd", flow));
    CHECK(with("under=/bin/sh,parent=/bin/sh", flow));
    CHECK_FALSE(with("under=/usr/bin/curl", flow));
    CHECK_FALSE(with("under=/usr/sbin/sshd,parent=/bin/bash", flow));
    CHECK_FALSE(with("parent=/bin/sh", Flow{}));
}

TEST_CASE("[egress] token, cgroup, unit, container") {
    auto flow = tcp_to("192.0.2.1", 443);
    flow.token = 5;
    CHECK(with("token=5", flow));
    CHECK(with("token=4-6", flow));
    CHECK(with("token=>=5", flow));
    CHECK_FALSE(with("token=6-7", flow));
    CHECK_FALSE(with("token=>=6", flow));
    flow.cgroup = "/system.slice/nginx.service/worker";
    CHECK(with("cgroup=/", flow));
    CHECK(with("cgroup=/system.slice", flow));
    CHECK(with("cgroup=/system.slice/nginx.service/worker", flow));
    CHECK_FALSE(with("cgroup=/system.slice/nginx", flow));
    CHECK(with("unit=nginx", flow));
    CHECK(with("unit=system.slice", flow));
    CHECK_FALSE(with("unit=inx.service", flow));
    CHECK_FALSE(with("unit=worker", flow));
    CHECK(with("host", flow));
    CHECK_FALSE(with("container", flow));
    flow.container = true;
    CHECK(with("container", flow));
    CHECK_FALSE(with("host", flow));
}

TEST_CASE("[egress] the first line that matches decides, and none may") {
    const auto policy = parsed("10.0.0.0/8 * * * * allow\n"
                               "10.0.0.1 * * * * deny\n"
                               "*:25 * * * * reject\n")
                            .policy;
    const auto line = [&](const Flow& flow) {
        const auto* rule = reference::decide(policy, flow);
        return rule == nullptr ? 0 : rule->place.line;
    };
    CHECK(line(tcp_to("10.0.0.1", 25)) == 2);
    CHECK(line(tcp_to("192.0.2.1", 25)) == 4);
    CHECK(line(tcp_to("192.0.2.1", 26)) == 0);
}

TEST_CASE("[egress] has a bound, and lists are for what goes beyond") {
    std::string text;
    for (std::size_t i = 0; i < max_egress_rules; ++i) {
        text += "192.0.2.1 * * * * allow\n";
    }
    CHECK(parsed(text).ok());
    const auto over = parsed(text + "* * * * * deny\n* * * * * deny\n");
    REQUIRE_FALSE(over.ok());
    CHECK(over.diagnostics.at(0).message() ==
          "t:1026:1: more than 1024 lines in [egress]; put addresses into an @list");
    CHECK(over.policy.egress.size() == max_egress_rules);
}

TEST_CASE("[egress] a text without a place for lists names none") {
    const auto read = parse_text("[egress]\n@bad-hosts * * * * deny\n", "t");
    REQUIRE_FALSE(read.ok());
    CHECK(
        read.diagnostics.at(0).message() ==
        "t:2:1: list 'bad-hosts' cannot be read; lists are files of egress.d beside a rules file, "
        "and there is none here");
}

TEST_CASE("[egress] what is not there yet is said, and the rest is not") {
    const auto said = [](std::string_view line) {
        return not_yet(parsed(line).policy.egress.at(0));
    };
    CHECK(said("* * * * curl deny container,until=2126-01-01,audit,log,alarm") == "");
    CHECK(said("internet stream tcp root:root /usr/** reject quiet,unit=a,when=Mon") == "");
    CHECK(said("@bad-hosts * * * * allow under=/a,parent=/b,cgroup=/c,host") == "");
    CHECK(said("* * * * * ask") == "the action ask is not there yet");
    CHECK(said("* * * * * deny token=1") == "the option token is not there yet");
    CHECK(said("* * * * * deny kill,when=Mon") == "the option kill is not there yet");
}

TEST_CASE("[egress] a printed line is one line of single blanks") {
    const auto rule = parsed("*:ssh stream tcp root curl deny alarm").policy.egress.at(0);
    CHECK(print(rule) == "*:22 stream tcp 0 curl deny alarm");
}

} // namespace egress::policy
