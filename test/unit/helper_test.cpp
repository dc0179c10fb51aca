// The helper's protocol, names of sets, and the comparison of a sync: everything that needs no
// kernel.
#include "helper/diff.h"
#include "helper/exempt.h"
#include "helper/layout.h"
#include "helper/lines.h"
#include "helper/memory.h"
#include "helper/proto.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <netinet/in.h>

using namespace egress;
using namespace egress::helper;

namespace {

Request parsed(std::string_view line) {
    const auto request = parse_request(line);
    const std::string why = request ? "" : request.error().text;
    INFO(line, ": ", why);
    REQUIRE(request);
    return *request;
}

std::string refused(std::string_view line) {
    const auto request = parse_request(line);
    INFO(line);
    REQUIRE_FALSE(request);
    for (const char c : request.error().text) {
        CHECK(c >= 0x20);
        CHECK(c <= 0x7e);
    }
    return request.error().text;
}

bool says(const std::string& text, std::string_view part) {
    INFO(text);
    return text.find(part) != std::string::npos;
}

Block block(std::string_view line) {
    return parsed("1 elem " + std::string(line)).block;
}

} // namespace

TEST_CASE("a request is what its line says") {
    const auto add = parsed("18446744073709551615 add egress tcp 192.0.2.1 32 22 600 drop");
    CHECK(add.id == 18'446'744'073'709'551'615U);
    CHECK(add.verb == Verb::add);
    CHECK(add.name == "egress");
    CHECK(add.block.target.protocol == 6);
    CHECK(add.block.target.source.text() == "192.0.2.1");
    CHECK(add.block.target.port == 22);
    CHECK(add.block.seconds == 600);
    CHECK(add.block.action == Action::drop);

    const auto elem = parsed("2 elem * 2001:db8:: 32 * * reject");
    CHECK(elem.name.empty());
    CHECK(elem.block.target.protocol == 0);
    CHECK(elem.block.target.source.text() == "2001:db8::/32");
    CHECK(elem.block.target.port == 0);
    CHECK(elem.block.seconds == for_ever);
    CHECK(elem.block.action == Action::reject);
}

TEST_CASE("what is printed is what was read, in one spelling") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"1 add a tcp 192.0.2.1 32 22 1 drop", ""},
        {"1 add A.b_c-9 udp 192.0.2.0 24 * * reject", ""},
        {"1 add 9 * 0.0.0.0 0 65535 18446744073 drop", ""},
        {"1 rem egress 47 2001:db8::1 128 *", ""},
        {"1 flush egress", ""},
        {"1 list egress", ""},
        {"1 names", ""},
        {"1 sync egress", ""},
        {"1 elem 255 :: 0 * 1 drop", ""},
        {"1 end", ""},
        {"1 kill * 10.0.0.0 8 443", ""},
        {"1 ping", ""},
        {"1 exempt", ""},
        {"1 pass * 10.0.0.0 8 *", ""},
        {"1 hold tcp 2001:db8::1 128 22", ""},
        {"1 rem x 6 2001:DB8:0::1 128 22", "1 rem x tcp 2001:db8::1 128 22"},
        {"1 rem x 17 ::ffff:192.0.2.1 128 22", "1 rem x udp 192.0.2.1 32 22"},
        {"1 rem x sctp ::ffff:192.0.2.0 120 22", "1 rem x 132 192.0.2.0 24 22"},
        {"1 rem x icmp 192.0.2.1 32 *", "1 rem x 1 192.0.2.1 32 *"},
    };
    for (const auto& [line, expected] : cases) {
        const auto text = print(parsed(line));
        CHECK(text == (expected.empty() ? line : expected));
        CHECK(print(parsed(text)) == text);
    }
}

TEST_CASE("a wrong field is named") {
    CHECK(says(refused("1 add egress tpc 192.0.2.1 32 22 6 drop"), "protocol \"tpc\""));
    CHECK(says(refused("1 add egress tcp 192.0.2 32 22 6 drop"), "address \"192.0.2\""));
    CHECK(says(refused("1 add egress tcp 192.0.2.1 33 22 6 drop"), "0..32"));
    CHECK(says(refused("1 add egress tcp ::ffff:1.2.3.4 95 22 6 drop"), "96..128"));
    CHECK(says(refused("1 add egress tcp 192.0.2.1 24 22 6 drop"), "192.0.2.0/24 is the prefix"));
    CHECK(says(refused("1 add egress tcp 192.0.2.1 32 0 6 drop"), "port \"0\""));
    CHECK(says(refused("1 add egress icmp 192.0.2.1 32 22 6 drop"), "no ports"));
    CHECK(says(refused("1 add egress tcp 192.0.2.1 32 22 0 drop"), "time \"0\""));
    CHECK(says(refused("1 add egress tcp 192.0.2.1 32 22 6 block"), "action \"block\""));
    CHECK(says(refused("1 add -x tcp 192.0.2.1 32 22 6 drop"), "name \"-x\""));
    CHECK(says(refused("1 add egress"), "takes NAME PROTO"));
    CHECK(says(refused("1 ping  "), "one blank"));
    CHECK(says(refused("ping"), "no id"));
    CHECK(says(refused(std::string_view("1 ping\0", 7)), "0x00 in column 7"));
    CHECK(says(refused(std::string(256, '1')), "longer than 256"));
    CHECK(refused("1 frobnicate") == "unknown verb");
}

TEST_CASE("numbers have one spelling and a range") {
    for (const auto* number : {"01", "+1", "-1", "1.", "0x1", "1e1", "65536", "4294967297", "",
                               "18446744073709551617", "1 1", "one"}) {
        refused("1 rem x tcp 192.0.2.1 32 " + std::string(number));
        refused("1 rem x " + std::string(number) + " 192.0.2.1 32 *x");
        CHECK_FALSE(parse_id("0" + std::string(number)));
    }
    for (const auto* id : {"", " 1", "0", "01", "-1", "1a", "18446744073709551616"}) {
        CHECK_FALSE(parse_id(id));
    }
    CHECK(parse_id("7 anything\x01") == 7U);
    refused("1 add x tcp 192.0.2.1 32 22 18446744074 drop");
}

TEST_CASE("names are those that rules can have") {
    CHECK(is_name("egress"));
    CHECK(is_name(std::string(63, 'x')));
    CHECK_FALSE(is_name(std::string(64, 'x')));
    for (const auto* bad : {"", ".x", "-x", "_x", "a b", "a/b", "a;b", "a\n", "\xc3\xa9", "a{"}) {
        CHECK_FALSE(is_name(bad));
    }
}

TEST_CASE("blocklistd's arguments") {
    const char* const add[] = {"add", "blocklistd", "", "192.0.2.1", "32", "", "id"};
    const auto for_ever_drop = parse_event(add, nullptr, nullptr);
    REQUIRE(for_ever_drop);
    CHECK(for_ever_drop->block.target.protocol == 0);
    CHECK(for_ever_drop->block.target.port == 0);
    CHECK(for_ever_drop->block.seconds == for_ever);
    CHECK(for_ever_drop->block.action == Action::drop);
    const auto timed = parse_event(add, "60", "reject");
    REQUIRE(timed);
    CHECK(timed->block.seconds == 60);
    CHECK(timed->block.action == Action::reject);
    CHECK_FALSE(parse_event(add, "", nullptr));
    CHECK_FALSE(parse_event(add, nullptr, ""));
    CHECK(parse_event(std::span(add).first(6), nullptr, nullptr).error().code == EINVAL);
    CHECK(parse_event({}, nullptr, nullptr).error().code == EINVAL);
    const char* const rem[] = {"rem", "blocklistd", "17", "2001:db8::", "64", "53", ""};
    REQUIRE(parse_event(rem, "nonsense is for add", nullptr));
    CHECK(parse_event(rem, nullptr, nullptr)->block.target.protocol == 17);
    const char* const serve[] = {"serve"};
    CHECK(parse_event(serve, nullptr, nullptr).error().code == EINVAL);
    const char* const flush[] = {"flush", "no/name"};
    CHECK(parse_event(flush, nullptr, nullptr).error().code == 0);
}

TEST_CASE("an error reply is one line") {
    const auto line = error_line(7, std::string(1000, 'x') + "\n\x1b");
    CHECK(line.size() == max_line);
    CHECK(line.starts_with("7 err xxx"));
    CHECK(line.find('\n') == line.size() - 1);
    CHECK(error_line(7, "a\nb\x1b[0m\xff") == "7 err a?b?[0m?\n");
}

TEST_CASE("lines come whole, whatever the pieces") {
    const std::string text = "one\n\ntwo\n" + std::string(300, 'l') + "\nthree\nhalf";
    for (std::size_t piece = 1; piece < text.size(); ++piece) {
        LineReader reader;
        std::vector<std::string> lines;
        for (std::size_t at = 0; at < text.size(); at += piece) {
            reader.feed(std::string_view(text).substr(at, piece),
                        [&](std::string_view line) { lines.emplace_back(line); });
        }
        CHECK(lines ==
              std::vector<std::string>{"one", "", "two", std::string(max_line, 'l'), "three"});
    }
}

TEST_CASE("names of sets lead back to what they are for") {
    for (const auto* name : {"egress", "9", "a.v4.24.drop", "x.all", "a.b-c_d"}) {
        for (const auto* line : {"tcp 192.0.2.0 24 22 1 drop", "* 0.0.0.0 0 22 1 reject",
                                 "udp 2001:db8::1 128 * 1 drop", "* 2001:db8:: 64 * 1 reject"}) {
            const Block of = block(line);
            const SetId set = set_of(name, of.target, of.action);
            CHECK(parse_set_name(set_name(set)) == set);
            CHECK(set_name(set).size() < 256);
        }
    }
    CHECK(set_name(set_of("egress", block("tcp 192.0.2.0 24 22 1 drop").target, Action::drop)) ==
          "egress.v4.24.drop");
    for (const auto* foreign :
         {"", "egress", "egress.v4.33.drop", "egress.v5.24.drop", "egress.v4.24.accept",
          "egress.v4.024.drop", ".v4.24.drop", "egress.v4.24.drop.", "_egress.v4.24.drop",
          "9.v4.24.drop", "egress.v4.24.drop.any", "egress.v4.24.all", "v4.24.drop"}) {
        CHECK_FALSE(parse_set_name(foreign));
    }
}

TEST_CASE("the most specific exemption decides") {
    const auto entry = [](bool passes, std::string_view target) {
        return Exemption{parsed("1 pass " + std::string(target)).block.target, passes};
    };
    const Exemptions list({entry(true, "* 10.0.0.0 8 *"), entry(false, "* 10.1.0.0 16 *"),
                           entry(true, "* 10.1.0.0 16 22"), entry(false, "udp 10.1.0.0 16 22"),
                           entry(true, "tcp 10.1.2.3 32 *"), entry(false, "tcp 10.1.2.3 32 25"),
                           entry(false, "* 2001:db8:: 32 *"), entry(true, "* 2001:db8:: 32 *")});
    CHECK(list.size() == 7); // the last of equal targets counts
    const auto pass = [&](const char* address, int protocol, int port) {
        return list.pass(*Address::parse(address), static_cast<std::uint8_t>(protocol),
                         static_cast<std::uint16_t>(port));
    };
    CHECK(pass("10.9.0.1", IPPROTO_TCP, 80));
    CHECK(pass("10.9.0.1", IPPROTO_ICMP, 0));
    CHECK_FALSE(pass("10.1.0.1", IPPROTO_TCP, 80));
    CHECK(pass("10.1.0.1", IPPROTO_TCP, 22));
    CHECK_FALSE(pass("10.1.0.1", IPPROTO_UDP, 22));
    CHECK(pass("10.1.2.3", IPPROTO_TCP, 80));
    CHECK_FALSE(pass("10.1.2.3", IPPROTO_TCP, 25));
    CHECK_FALSE(pass("10.1.2.3", IPPROTO_UDP, 80));
    CHECK(pass("2001:db8::7", IPPROTO_UDP, 53));
    CHECK_FALSE(pass("11.0.0.1", IPPROTO_TCP, 22));
    CHECK_FALSE(Exemptions().pass(*Address::parse("10.0.0.1"), IPPROTO_TCP, 22));
    for (const auto& group : list.groups()) {
        CHECK(parse_set_name(set_name(group.set)) == group.set);
    }
}

TEST_CASE("a sync adds, renews and removes what differs, and nothing else") {
    const auto element = [](std::string_view line, std::uint64_t packets) {
        return Element{block(line), packets, packets * 60};
    };
    const auto plan = diff(
        {
            element("tcp 192.0.2.5 32 22 100 drop", 5), // right, within the tolerance
            element("tcp 192.0.2.1 32 22 100 drop", 1), // another time
            element("tcp 192.0.2.2 32 22 100 drop", 2), // another action
            element("tcp 192.0.2.3 32 22 * drop", 3),   // for ever, wanted for a while
            element("tcp 192.0.2.4 32 22 100 drop", 4), // not wanted
            element("tcp 192.0.2.5 32 22 100 drop", 5), // shown twice by the kernel
            element("tcp 192.0.2.6 32 22 * drop", 6),   // right
        },
        {
            block("udp 192.0.2.9 32 53 9 drop"), // new
            block("tcp 192.0.2.1 32 22 500 drop"),
            block("tcp 192.0.2.2 32 22 100 reject"),
            block("tcp 192.0.2.3 32 22 100 drop"),
            block("tcp 192.0.2.5 32 22 900 drop"), // said twice: the last counts
            block("tcp 192.0.2.5 32 22 102 drop"),
            block("tcp 192.0.2.6 32 22 * drop"),
        });
    REQUIRE(plan.add.size() == 2);
    CHECK(plan.add[0].target.source.text() == "192.0.2.2");
    CHECK(plan.add[0].action == Action::reject);
    CHECK(plan.add[1].target.protocol == 17);
    REQUIRE(plan.renew.size() == 2);
    CHECK(plan.renew[0].block.seconds == 500);
    CHECK(plan.renew[0].packets == 1);
    CHECK(plan.renew[1].block.seconds == 100);
    CHECK(plan.renew[1].packets == 3);
    REQUIRE(plan.remove.size() == 1);
    CHECK(plan.remove[0].target.source.text() == "192.0.2.4");
    REQUIRE(plan.remove_later.size() == 1);
    CHECK(plan.remove_later[0].target.source.text() == "192.0.2.2");
    CHECK(plan.remove_later[0].action == Action::drop);
}

TEST_CASE("what was read or written is remembered until it ends") {
    Memory memory;
    const auto held = [&](std::int64_t now) {
        std::string text;
        const auto elements = memory.recall("egress", now);
        REQUIRE(elements);
        for (const Element& element : *elements) {
            append(text, element);
            text += ';';
        }
        return text;
    };
    memory.note("egress", block("tcp 192.0.2.1 32 22 10 drop"), true, 0);
    CHECK_FALSE(memory.recall("egress", 0)); // what came before is not known

    memory.learn("egress",
                 {Element{block("tcp 192.0.2.2 32 22 10 drop"), 7, 7},
                  Element{block("tcp 192.0.2.1 32 22 * drop"), 0, 0},
                  Element{block("tcp 192.0.2.1 32 22 * drop"), 0, 0}},
                 1000);
    CHECK(held(1000) == "tcp 192.0.2.1 32 22 * drop 0;tcp 192.0.2.2 32 22 10 drop 0;");
    CHECK(held(1001) == "tcp 192.0.2.1 32 22 * drop 0;tcp 192.0.2.2 32 22 10 drop 0;");
    CHECK(held(10'001) == "tcp 192.0.2.1 32 22 * drop 0;tcp 192.0.2.2 32 22 1 drop 0;");
    CHECK(held(11'000) == "tcp 192.0.2.1 32 22 * drop 0;");

    memory.note("egress", block("tcp 192.0.2.1 32 22 5 reject"), true, 11'000);
    memory.note("egress", block("tcp 192.0.2.3 32 22 * drop"), true, 11'000);
    memory.note("egress", block("tcp 192.0.2.3 32 22 1 drop"), false, 11'000);
    memory.note("egress", block("tcp 192.0.2.0 32 22 1 drop"), false, 11'000);
    CHECK(held(12'000) == "tcp 192.0.2.1 32 22 4 reject 0;");
    memory.note("egress", block("tcp 192.0.2.1 32 22 1 reject"), true, 12'000);
    CHECK(held(13'000).empty()); // the longer time that it had before is not back

    for (int i = 0; i < 20'000; ++i) {
        const auto line = "tcp 10.0.0." + std::to_string(i % 200) + " 32 22 " +
                          std::to_string(1 + i % 300) + " drop";
        memory.note("egress", block(line), i % 200 != 7, 20'000);
    }
    const auto many = memory.recall("egress", 20'000);
    CHECK(many->size() == 199);
    CHECK(many->front().block.seconds == 1 + 19'800 % 300);
    memory.note("egress", block("tcp 10.0.0.0 32 22 * drop"), true, 20'000);
    CHECK(memory.recall("egress", 20'000)->front().block.seconds == for_ever);
    memory.forget();
    CHECK_FALSE(memory.recall("egress", 20'000));
}
