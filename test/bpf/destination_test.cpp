// Where each length of prefix ends up, and what is found from there.
#include <algorithm>

#include <fmt/format.h>

#include "test/bpf/build.h"

namespace egress::bpf {

namespace {

/// The runs of a first half: the last 16 bits that each begins with.
std::vector<std::uint32_t> runs_at(const Tables& tables, std::uint32_t first16) {
    const auto entry = tables.base->v4_top[first16];
    REQUIRE((entry & EGRESS_RUNS) != 0);
    std::vector<std::uint32_t> out;
    for (std::uint32_t i = 0; i <= EGRESS_RUNS_MORE(entry); ++i) {
        const auto& runs = tables.runs.at(static_cast<std::uint32_t>(entry) + i);
        out.insert(out.end(), std::begin(runs.first), std::end(runs.first));
    }
    while (out.size() > 1 && out.back() == 65535 && out[out.size() - 2] == 65535) {
        out.pop_back(); // what is not used
    }
    return out;
}

using Starts = std::vector<std::uint32_t>;

template <typename Entry>
std::size_t used(const Entry (&table)[65536]) {
    return static_cast<std::size_t>(
        std::ranges::count_if(table, [](auto entry) { return entry != EGRESS_EMPTY; }));
}

bool is_plain(std::uint64_t entry) {
    return (entry & (EGRESS_RUNS | EGRESS_FINER)) == 0 && entry > EGRESS_EMPTY;
}

} // namespace

TEST_CASE("no prefix at all") {
    const auto tables = tables_of({});
    CHECK(used(tables.base->v4_top) == 0);
    CHECK(used(tables.base->v6_top) == 0);
    CHECK(lines_for(tables, "10.0.0.1").empty());
    CHECK(lines_for(tables, "2001:db8::1").empty());
}

TEST_CASE("IPv4 up to /16 is in the first table alone") {
    const auto tables = tables_of({"10.0.0.0/8", "192.0.0.0/16", "240.0.0.0/4"});
    CHECK(used(tables.base->v4_top) == 256 + 1 + 4096);
    CHECK(is_plain(tables.base->v4_top[0x0a00]));
    CHECK(is_plain(tables.base->v4_top[0xc000]));
    CHECK(tables.runs.empty());
    CHECK(lines_for(tables, "9.255.255.255").empty());
    CHECK(lines_for(tables, "10.0.0.0") == "0");
    CHECK(lines_for(tables, "10.255.255.255") == "0");
    CHECK(lines_for(tables, "11.0.0.0").empty());
    CHECK(lines_for(tables, "192.0.0.0") == "1");
    CHECK(lines_for(tables, "192.0.255.255") == "1");
    CHECK(lines_for(tables, "192.1.0.0").empty());
    CHECK(lines_for(tables, "255.255.255.255") == "2");
}

TEST_CASE("IPv4 from /17 on is in runs") {
    const auto tables = tables_of({"10.1.128.0/17", "10.1.5.0/24", "10.2.3.0/24"});
    CHECK(used(tables.base->v4_top) == 2);
    CHECK(tables.runs.size() == 2);
    CHECK(tables.prefixes == 3);
    CHECK(runs_at(tables, 0x0a01) == Starts{0, 0x500, 0x600, 0x8000, 65535});
    CHECK(runs_at(tables, 0x0a02) == Starts{0, 0x300, 0x400, 65535});
    CHECK(lines_for(tables, "10.1.127.255").empty());
    CHECK(lines_for(tables, "10.1.128.0") == "0");
    CHECK(lines_for(tables, "10.1.255.255") == "0");
    CHECK(lines_for(tables, "10.1.4.255").empty());
    CHECK(lines_for(tables, "10.1.5.0") == "1");
    CHECK(lines_for(tables, "10.1.5.255") == "1");
    CHECK(lines_for(tables, "10.1.6.0").empty());
    CHECK(lines_for(tables, "10.2.3.4") == "2");
}

TEST_CASE("IPv4 /25 to /31") {
    const auto tables = tables_of({"10.1.1.128/25", "10.1.2.6/31"});
    CHECK(runs_at(tables, 0x0a01) == Starts{0, 0x180, 0x200, 0x206, 0x208, 65535});
    CHECK(lines_for(tables, "10.1.1.127").empty());
    CHECK(lines_for(tables, "10.1.1.128") == "0");
    CHECK(lines_for(tables, "10.1.1.255") == "0");
    CHECK(lines_for(tables, "10.1.2.5").empty());
    CHECK(lines_for(tables, "10.1.2.6") == "1");
    CHECK(lines_for(tables, "10.1.2.7") == "1");
    CHECK(lines_for(tables, "10.1.2.8").empty());
}

TEST_CASE("IPv4 /32") {
    const auto tables = tables_of({"10.1.1.1", "10.1.1.2/32", "0.0.0.0", "255.255.255.255"});
    CHECK(tables.runs.size() == 3);
    CHECK(runs_at(tables, 0) == Starts{0, 1, 65535});
    CHECK(runs_at(tables, 0x0a01) == Starts{0, 0x101, 0x102, 0x103, 65535});
    CHECK(runs_at(tables, 0xffff) == Starts{0, 65535});
    CHECK(lines_for(tables, "10.1.1.0").empty());
    CHECK(lines_for(tables, "10.1.1.1") == "0");
    CHECK(lines_for(tables, "10.1.1.2") == "1");
    CHECK(lines_for(tables, "10.1.1.3").empty());
    CHECK(lines_for(tables, "0.0.0.0") == "2");
    CHECK(lines_for(tables, "255.255.255.255") == "3");
}

TEST_CASE("IPv4 prefixes inside one another, inner ones first") {
    const auto tables = tables_of({"10.1.1.1", "10.1.1.0/31", "10.1.1.0/25", "10.1.1.0/24",
                                   "10.1.0.0/17", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"});
    CHECK(lines_for(tables, "10.1.1.1") == "0 1 2 3 4 5 6 7");
    CHECK(lines_for(tables, "10.1.1.0") == "1 2 3 4 5 6 7");
    CHECK(lines_for(tables, "10.1.1.2") == "2 3 4 5 6 7");
    CHECK(lines_for(tables, "10.1.1.128") == "3 4 5 6 7");
    CHECK(lines_for(tables, "10.1.2.0") == "4 5 6 7");
    CHECK(lines_for(tables, "10.1.128.0") == "5 6 7");
    CHECK(lines_for(tables, "10.2.0.0") == "6 7");
    CHECK(lines_for(tables, "11.0.0.0") == "7");
}

TEST_CASE("IPv4 siblings, and twice the same") {
    const auto tables =
        tables_of({"10.1.1.0/25", "10.1.1.128/25", "10.1.0.0/17", "10.1.128.0/17", "10.1.1.0/25"});
    CHECK(runs_at(tables, 0x0a01) == Starts{0, 0x100, 0x180, 0x200, 0x8000, 65535});
    CHECK(lines_for(tables, "10.1.1.127") == "0 2 4");
    CHECK(lines_for(tables, "10.1.1.128") == "1 2");
    CHECK(lines_for(tables, "10.1.0.255") == "2");
    CHECK(lines_for(tables, "10.1.128.0") == "3");
}

TEST_CASE("IPv4 hosts of a list take one run each") {
    policy::Policy policy;
    policy.egress.emplace_back().destination.kind = policy::Destination::Kind::list;
    policy.egress.back().destination.text = "hosts";
    policy::AddressList list{"hosts", "l", {}, {}};
    for (const char* text : {"10.1.0.1", "10.1.1.1", "10.1.1.2", "10.1.1.5", "10.1.255.253"}) {
        list.prefixes.push_back(Prefix::parse(text).value());
    }
    policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    const auto tables = tables_of(policy);
    CHECK(runs_at(tables, 0x0a01) == Starts{0, 1, 0x101, 0x103, 0x105, 0xfffd, 65535});
    for (const char* text : {"10.1.0.1", "10.1.1.1", "10.1.1.2", "10.1.1.5", "10.1.255.253"}) {
        CHECK(lines_for(tables, text) == "0");
    }
    for (const char* text : {"10.1.0.0", "10.1.0.2", "10.1.1.0", "10.1.1.3", "10.1.1.4", "10.1.1.6",
                             "10.1.255.252", "10.1.255.254", "10.1.255.255", "10.2.0.0"}) {
        CHECK(lines_for(tables, text).empty());
    }
}

TEST_CASE("IPv4 hosts of different lines") {
    const auto tables = tables_of({"10.1.1.1", "10.1.1.5", "10.1.2.0/24", "10.1.2.9", "10.1.2.255",
                                   "10.1.255.255", "10.1.0.1", "10.1.255.253"});
    CHECK(lines_for(tables, "10.1.0.0").empty());
    CHECK(lines_for(tables, "10.1.0.1") == "6");
    CHECK(lines_for(tables, "10.1.0.2").empty());
    CHECK(lines_for(tables, "10.1.1.0").empty());
    CHECK(lines_for(tables, "10.1.1.1") == "0");
    CHECK(lines_for(tables, "10.1.1.2").empty());
    CHECK(lines_for(tables, "10.1.1.5") == "1");
    CHECK(lines_for(tables, "10.1.1.6").empty());
    CHECK(lines_for(tables, "10.1.2.8") == "2");
    CHECK(lines_for(tables, "10.1.2.9") == "2 3");
    CHECK(lines_for(tables, "10.1.2.10") == "2");
    CHECK(lines_for(tables, "10.1.2.254") == "2");
    CHECK(lines_for(tables, "10.1.2.255") == "2 4");
    CHECK(lines_for(tables, "10.1.3.0").empty());
    CHECK(lines_for(tables, "10.1.255.252").empty());
    CHECK(lines_for(tables, "10.1.255.253") == "7");
    CHECK(lines_for(tables, "10.1.255.254").empty());
    CHECK(lines_for(tables, "10.1.255.255") == "5");
    CHECK(lines_for(tables, "10.2.0.0").empty());
}

TEST_CASE("IPv4 runs of more vectors than a structure holds") {
    policy::Policy policy;
    for (unsigned rule = 0; rule < 7; ++rule) {
        policy.egress.emplace_back().destination.kind = policy::Destination::Kind::list;
        policy.egress.back().destination.text = fmt::format("l{}", rule);
        policy::AddressList list{fmt::format("l{}", rule), "l", {}, {}};
        for (unsigned low = rule; low < 65536; low += 7) {
            list.prefixes.push_back(
                Prefix::parse(fmt::format("10.1.{}.{}", low >> 8, low & 255)).value());
        }
        policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    }
    const auto tables = tables_of(policy);
    CHECK(tables.runs.size() == 65536 / EGRESS_RUNS_VECTORS);
    for (unsigned low = 0; low < 65536; ++low) {
        const auto address = fmt::format("10.1.{}.{}", low >> 8, low & 255);
        REQUIRE(lines_for(tables, address.c_str()) == fmt::format("{}", low % 7));
    }
}

TEST_CASE("every address of a first half is a run of its own") {
    policy::Policy policy;
    for (int rule = 0; rule < 2; ++rule) {
        policy.egress.emplace_back().destination.kind = policy::Destination::Kind::list;
        policy.egress.back().destination.text = rule ? "odd" : "even";
        policy::AddressList list{rule ? "odd" : "even", "l", {}, {}};
        for (unsigned low = static_cast<unsigned>(rule); low < 65536; low += 2) {
            list.prefixes.push_back(
                Prefix::parse(fmt::format("10.1.{}.{}", low >> 8, low & 255)).value());
        }
        policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    }
    const auto tables = tables_of(policy);
    CHECK(tables.runs.size() == (32768 + 1 + EGRESS_RUNS_SIZE - 1) / EGRESS_RUNS_SIZE);
    for (unsigned low = 0; low < 65536; ++low) {
        const auto address = fmt::format("10.1.{}.{}", low >> 8, low & 255);
        REQUIRE(lines_for(tables, address.c_str()) == (low % 2 ? "1" : "0"));
    }
    CHECK(lines_for(tables, "10.0.255.255").empty());
    CHECK(lines_for(tables, "10.2.0.0").empty());
}

TEST_CASE("IPv6 up to /16 is in the first table alone") {
    const auto tables = tables_of({"2000::/3", "2001::/16", "fe80::/10", "::/0"});
    CHECK(used(tables.base->v6_top) == 65536);
    CHECK(std::ranges::all_of(tables.base->v6_top, is_plain));
    CHECK(tables.hosts6.empty());
    CHECK(tables.prefixes6.empty());
    CHECK(lines_for(tables, "1fff:ffff::") == "3");
    CHECK(lines_for(tables, "2000::") == "0 3");
    CHECK(lines_for(tables, "2001:ffff::1") == "0 1 3");
    CHECK(lines_for(tables, "2002::") == "0 3");
    CHECK(lines_for(tables, "3fff:ffff:ffff::") == "0 3");
    CHECK(lines_for(tables, "4000::") == "3");
    CHECK(lines_for(tables, "febf::1") == "2 3");
    CHECK(lines_for(tables, "10.0.0.1").empty()); // mapped: IPv4's lines judge
}

TEST_CASE("IPv6 from /17 on is below") {
    const auto tables =
        tables_of({"2001:8000::/17", "2001:db8:0:1::/64", "2001:db8::6/127", "2001:db8::7"});
    CHECK(used(tables.base->v6_top) == 1);
    CHECK(tables.base->v6_top[0x2001] == (EGRESS_FINER | EGRESS_EMPTY));
    CHECK(tables.prefixes6.size() == 3);
    CHECK(tables.hosts6.size() == 1);
    CHECK(lines_for(tables, "2001:7fff:ffff::").empty());
    CHECK(lines_for(tables, "2001:8000::") == "0");
    CHECK(lines_for(tables, "2001:ffff::1") == "0");
    CHECK(lines_for(tables, "2001:db8:0:0:ffff::").empty());
    CHECK(lines_for(tables, "2001:db8:0:1::") == "1");
    CHECK(lines_for(tables, "2001:db8:0:1:ffff:ffff:ffff:ffff") == "1");
    CHECK(lines_for(tables, "2001:db8:0:2::").empty());
    CHECK(lines_for(tables, "2001:db8::5").empty());
    CHECK(lines_for(tables, "2001:db8::6") == "2");
    CHECK(lines_for(tables, "2001:db8::7") == "2 3");
    CHECK(lines_for(tables, "2001:db8::8").empty());
}

TEST_CASE("a prefix that says nothing new takes no place") {
    policy::Policy policy;
    auto& rule = policy.egress.emplace_back();
    rule.destination.kind = policy::Destination::Kind::list;
    rule.destination.text = "l";
    policy::AddressList list{"l", "l", {}, {}};
    for (const char* text : {"10.0.0.0/8", "10.0.0.0/8", "10.1.1.1", "10.2.0.0/24", "fd00::/8",
                             "fd00::1", "fd00::/17"}) {
        list.prefixes.push_back(Prefix::parse(text).value());
    }
    policy.lists.push_back(std::make_shared<const policy::AddressList>(list));
    const auto tables = tables_of(policy);
    CHECK(tables.runs.empty());
    CHECK(tables.prefixes == 2);
    CHECK(tables.hosts6.empty());
    CHECK(tables.prefixes6.empty());
    CHECK(lines_for(tables, "10.1.1.1") == "0");
    CHECK(lines_for(tables, "fd00::1") == "0");
}

TEST_CASE("lines that share a list, one for IPv4 and one for IPv6") {
    auto policy = policy_of("* stream tcp * * allow\n* stream tcp4 * * allow\n"
                            "* stream tcp6 * * allow\n");
    for (auto& rule : policy.egress) {
        rule.destination.kind = policy::Destination::Kind::list;
        rule.destination.text = "l";
    }
    policy.lists.push_back(std::make_shared<const policy::AddressList>(policy::AddressList{
        "l", "l", {Prefix::parse("10.0.0.1").value(), Prefix::parse("fd00::1").value()}, {}}));
    const auto tables = tables_of(policy);
    CHECK(lines_for(tables, "10.0.0.1") == "0 1");
    CHECK(lines_for(tables, "fd00::1") == "0 2");
}

TEST_CASE("classes have holes, but only for their own line") {
    const auto tables = tables_of(policy_of("internet * * * * deny\n10.1.0.0/16 * * * * allow\n"
                                            "private * * * * deny\nlocal * * * * allow\n"
                                            "internet * * * * allow\n"
                                            "multicast * * * * deny\n"
                                            "broadcast * * * * deny\n"));
    CHECK(lines_for(tables, "9.255.255.255") == "0 4");
    CHECK(lines_for(tables, "10.0.0.1") == "2");
    CHECK(lines_for(tables, "10.1.0.1") == "1 2");
    CHECK(lines_for(tables, "11.0.0.0") == "0 4");
    CHECK(lines_for(tables, "0.0.0.0") == "3");
    CHECK(lines_for(tables, "0.0.0.1").empty());
    CHECK(lines_for(tables, "127.1.2.3") == "3");
    CHECK(lines_for(tables, "224.0.0.1") == "5");
    CHECK(lines_for(tables, "240.0.0.1") == "0 4");
    CHECK(lines_for(tables, "255.255.255.255") == "6");
    CHECK(lines_for(tables, "255.255.255.254") == "0 4");
    CHECK(lines_for(tables, "::") == "3");
    CHECK(lines_for(tables, "::1") == "3");
    CHECK(lines_for(tables, "::2").empty());
    CHECK(lines_for(tables, "64:ff9b::1.2.3.4") == "0 4");
    CHECK(lines_for(tables, "64:ff9b:1:2::1.2.3.4") == "0 4");
    CHECK(lines_for(tables, "64:ff9b:2::1").empty());
    CHECK(lines_for(tables, "fdff::1") == "2");
    CHECK(lines_for(tables, "ff02::1") == "5");
}

} // namespace egress::bpf
