// learn: what was seen -> lines, and how they are put together.
#include <doctest/doctest.h>

#include "ctl/lessons.h"
#include "daemon/policy/parser.h"

using namespace egress;
using ctl::Lesson;
using store::EventRow;

namespace {

EventRow seen(const std::string& address, std::uint16_t port, const std::string& program = "/p",
              std::uint32_t uid = 1000) {
    EventRow row;
    row.uid = uid;
    row.type = 1;
    row.protocol = 6;
    row.port = port;
    row.address = Address::parse(address);
    row.program = program;
    row.count = 1;
    row.first = row.last = 1'700'000'000;
    return row;
}

std::vector<std::string> lines_of(const std::vector<EventRow>& rows, bool exact = false) {
    std::vector<std::string> out;
    for (const auto& lesson : ctl::learn(rows, {exact, false})) {
        out.push_back(lesson.line);
    }
    return out;
}

using Lines = std::vector<std::string>;

} // namespace

TEST_CASE("learn: ports of one address make a list, ranges where they touch") {
    CHECK(lines_of({seen("10.0.0.1", 443), seen("10.0.0.1", 80), seen("10.0.0.1", 81),
                    seen("2001:db8::1", 80)}) ==
          Lines{"10.0.0.1:80-81,443 stream tcp 1000 /p allow",
                "[2001:db8::1]:80 stream tcp 1000 /p allow"});
}

TEST_CASE("learn: a line that allows and audits refuses nothing") {
    auto refused = seen("10.0.0.1", 443);
    refused.action = EventRow::Action::monitored;
    refused.rule = "egress.conf:3:1";
    auto audited = refused;
    audited.flags = EventRow::audited;
    CHECK(ctl::learn({refused}, {false, false}).at(0).refusing.size() == 1);
    CHECK(ctl::learn({audited}, {false, false}).at(0).refusing.empty());
    CHECK(lines_of({audited}) == Lines{"10.0.0.1:443 stream tcp 1000 /p allow"});
}

TEST_CASE("learn: program, user, place, type and protocol keep lines apart") {
    auto udp = seen("10.0.0.1", 53);
    udp.type = 2;
    udp.protocol = 17;
    auto inside = seen("10.0.0.1", 53);
    inside.flags = EventRow::container;
    CHECK(lines_of({seen("10.0.0.1", 53), seen("10.0.0.1", 53, "/q"), seen("10.0.0.1", 53, "/p", 7),
                    udp, inside})
              .size() == 5);
    CHECK(lines_of({inside}) == Lines{"10.0.0.1:53 stream tcp 1000 /p allow container"});
}

TEST_CASE("learn: neighbours become their prefix where they are many and alike, and it is said") {
    std::vector<EventRow> rows;
    for (int i = 1; i <= 8; ++i) {
        rows.push_back(seen("10.0.0." + std::to_string(i), 443));
        rows.push_back(seen("2001:db8::" + std::to_string(i), 443));
        rows.push_back(seen("10.0." + std::to_string(i) + ".1", 443)); // no neighbours
    }
    rows.push_back(seen("10.0.0.99", 80)); // another port
    const auto lessons = ctl::learn(rows, {false, false});
    CHECK(lessons.size() == 2 + 8 + 1);
    std::size_t joined = 0;
    for (const auto& lesson : lessons) {
        if (!lesson.rule.destination.prefix.is_host()) {
            ++joined;
            CHECK(lesson.remark == "for 8 addresses");
            CHECK(lesson.addresses == 8);
        }
    }
    CHECK(joined == 2);
    CHECK(lines_of(rows, true).size() == 8 + 8 + 8 + 1);
    rows.erase(rows.begin()); // seven are not many
    CHECK(lines_of(rows).size() == 7 + 1 + 8 + 1);
}

TEST_CASE("learn: whatever the path holds, a line reads back as the same rule, or is none") {
    for (const std::string path : {"/a#b", "/a\\b", "/a b", "/a\tb", "/a\nb", "/a\x1b[31m",
                                   "/a\xff", "/a*", "/a/**", "/a//b", "relative", "memfd:x", "",
                                   "/gr\xc3\xbc\xc3\x9f"
                                   "e",
                                   "/a\"b", "/a'b", "/a,b", "/[egress]"}) {
        const auto lessons = ctl::learn({seen("10.0.0.1", 80, path)}, {false, false});
        REQUIRE(lessons.size() == 1);
        const auto& lesson = lessons[0];
        if (lesson.line.empty()) {
            CHECK_FALSE(lesson.remark.empty());
            for (const char c : lesson.seen) {
                CHECK(static_cast<unsigned char>(c) >= 0x20);
            }
            continue;
        }
        const auto parsed = policy::parse_text("[egress]\n" + lesson.line + "\n", "t");
        REQUIRE(parsed.ok());
        REQUIRE(parsed.policy.egress.size() == 1);
        CHECK(parsed.policy.egress[0].program.text == path);
        CHECK(parsed.policy.egress[0].program.kind == policy::Program::Kind::path);
    }
    CHECK_FALSE(lines_of({seen("10.0.0.1", 80, "/a#b")})[0].empty());
    CHECK(lines_of({seen("10.0.0.1", 80, "/a b")})[0].empty());
}

TEST_CASE("learn: what is wider than what was seen says so; what has no room makes no line") {
    const auto row = seen("10.0.0.1", 443);
    auto lessons = ctl::learn({store::widened(row), store::overflowed(row)}, {false, false});
    REQUIRE(lessons.size() == 1);
    CHECK(lessons[0].line == "*:443 stream tcp 1000 /p allow");
    CHECK(lessons[0].remark.find("more addresses") != std::string::npos);
    auto nameless = row;
    nameless.flags = EventRow::nameless;
    CHECK(lines_of({nameless}) == Lines{""});
}

TEST_CASE("learn: more ports than a line takes make more lines") {
    std::vector<EventRow> rows;
    for (int i = 0; i < 300; ++i) {
        rows.push_back(seen("10.0.0.1", static_cast<std::uint16_t>(1 + 2 * i)));
    }
    const auto lines = lines_of(rows);
    CHECK(lines.size() == 3);
    for (const auto& line : lines) {
        CHECK_FALSE(line.empty());
    }
}
