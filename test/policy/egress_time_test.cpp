// when= and until= of [egress].
#include "daemon/policy/print/print.h"
#include "test/policy/build.h"
#include "test/policy/egress_reference.h"
#include "test/policy/zone.h"

namespace egress::policy {

namespace {

constexpr const char* berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
constexpr std::int64_t tuesday = 1796083200; // 2026-12-01, 00:00 UTC
constexpr std::int64_t hour = 3600;
constexpr std::int64_t day = 24 * hour;

EgressOptions options(std::string_view text) {
    const auto parsed = parse_text("[egress]\n* * * * * deny " + std::string(text), "t");
    REQUIRE_MESSAGE(parsed.ok(), text);
    return parsed.policy.egress.at(0).options;
}

bool holds(std::string_view text, std::int64_t now) {
    reference::Flow flow;
    flow.now = now;
    return reference::fits_time(options(text), flow);
}

std::string refused(std::string_view text) {
    const auto parsed = parse_text("[egress]\n* * * * * deny " + std::string(text), "t");
    return parsed.ok() ? "" : parsed.diagnostics.at(0).message();
}

} // namespace

TEST_CASE("[egress] windows of a day and of days") {
    const Zone zone("UTC0");
    CHECK(holds("when=08:00-18:00", tuesday + 8 * hour));
    CHECK(holds("when=08:00-18:00", tuesday + 18 * hour - 1));
    CHECK_FALSE(holds("when=08:00-18:00", tuesday + 18 * hour));
    CHECK_FALSE(holds("when=08:00-18:00", tuesday + 8 * hour - 1));
    CHECK(holds("when=Tue", tuesday));
    CHECK(holds("when=Tue/00:00-24:00", tuesday + day - 1));
    CHECK_FALSE(holds("when=Tue", tuesday + day));
    CHECK_FALSE(holds("when=Tue", tuesday - 1));
    CHECK(holds("when=Mon+Tue/23:00-24:00", tuesday + day - 1));
    CHECK(holds("when=Sat-Tue", tuesday));
    CHECK_FALSE(holds("when=Wed-Mon", tuesday));
    CHECK(holds("when=Mon/08:00-09:00,when=Tue/10:00-11:00", tuesday + 10 * hour));
    CHECK_FALSE(holds("when=Mon/08:00-09:00,when=Tue/10:00-11:00", tuesday + 8 * hour));
}

TEST_CASE("[egress] a window over midnight belongs to the day that it begins on") {
    const Zone zone("UTC0");
    CHECK(holds("when=Tue/22:00-06:00", tuesday + 22 * hour));
    CHECK(holds("when=Tue/22:00-06:00", tuesday + day + 6 * hour - 1));
    CHECK_FALSE(holds("when=Tue/22:00-06:00", tuesday + day + 6 * hour));
    CHECK_FALSE(holds("when=Tue/22:00-06:00", tuesday + 3 * hour));
    CHECK(holds("when=Mon/22:00-06:00", tuesday + 3 * hour));
    CHECK(holds("when=Sun/22:00-06:00", tuesday - day + 3 * hour));
    CHECK(holds("when=Tue/08:00-08:00", tuesday + day + 8 * hour - 1));
    CHECK_FALSE(holds("when=Tue/08:00-08:00", tuesday + 8 * hour - 1));
    CHECK(holds("when=Tue/18:00-00:00", tuesday + day - 1));
    CHECK_FALSE(holds("when=Tue/18:00-00:00", tuesday));
    CHECK(options("when=00:00-00:00").when.at(0) == Window{std::bitset<7>(127), 0, 1440});
}

TEST_CASE("[egress] windows are of the local time") {
    const Zone zone(berlin);
    CHECK(holds("when=Tue/00:00-01:00", tuesday - hour));
    CHECK_FALSE(holds("when=Tue/00:00-01:00", tuesday));
}

TEST_CASE("[egress] the spans of a week are counted as they are joined") {
    const auto spans = [](std::string_view text) { return count_spans(options(text).when); };
    CHECK(spans("log") == 0);
    CHECK(spans("when=Mon-Fri") == 1);
    CHECK(spans("when=Mon-Fri/08:00-18:00") == 5);
    CHECK(spans("when=08:00-12:00,when=12:00-18:00") == 7);
    CHECK(spans("when=Sun/22:00-06:00") == 2);
    CHECK(spans("when=22:00-06:00") == 8);
    CHECK(spans("when=08:00-12:00,when=13:00-18:00") == 14);
    CHECK(refused("when=08:00-12:00,when=13:00-18:00,when=19:00-20:00")
              .find("t:2:16: the windows of when are 21 spans of a week; 16 are the most") == 0);
    std::string many = "when=Mon";
    for (int i = 0; i < 64; ++i) {
        many += ",when=Mon";
    }
    CHECK(refused(many).find("too many windows") != std::string::npos);
}

TEST_CASE("[egress] until is an instant") {
    const auto until = [](std::string_view text) {
        return options("until=" + std::string(text)).until.value_or(-1);
    };
    {
        const Zone zone(berlin);
        CHECK(until("2026-12-01T00:00:00Z") == tuesday);
        CHECK(until("2026-12-01t00:00z") == tuesday);
        CHECK(until("2026-12-01T01:00:00+01:00") == tuesday);
        CHECK(until("2026-11-30T19:30:00-04:30") == tuesday);
        CHECK(until("2026-12-01T01:00") == tuesday);
        CHECK(until("2026-12-01T01:00:30") == tuesday + 30);
        CHECK(until("2026-12-01") == tuesday - hour);
        CHECK(until("2027-07-01T02:00") == until("2027-07-01T00:00Z"));
        CHECK(until("1970-01-01T00:00Z") == 0);
        CHECK(until("9999-12-31T23:59:59Z") == 253402300799);
        CHECK(until("2028-02-29T00:00Z") == 1835395200);
    }
    CHECK(holds("until=2026-12-01T00:00:00Z", tuesday - 1));
    CHECK_FALSE(holds("until=2026-12-01T00:00:00Z", tuesday));
    for (const char* bad : {"1969-12-31T23:59:59Z",
                            "1970-01-01T00:00+00:01",
                            "9999-12-31T23:59:59-00:01",
                            "2026-13-01",
                            "2026-00-01",
                            "2026-04-31",
                            "2027-02-29",
                            "2026-1-1",
                            "2026-12-01T",
                            "2026-12-01T08",
                            "2026-12-01T08:60",
                            "2026-12-01T08:00:60",
                            "2026-12-01T08:00:00.5Z",
                            "2026-12-01T08:00+24:00",
                            "2026-12-01T08:00+1",
                            "2026-12-01T08:00ZZ",
                            "20261201",
                            "+026-12-01",
                            "2026-12-01 ",
                            "1796083200"}) {
        if (std::string_view(bad).find(' ') == std::string_view::npos) {
            CHECK_MESSAGE(refused("until=" + std::string(bad)) != "", bad);
        }
    }
}

TEST_CASE("[egress] a line that is over is said to be") {
    const auto warned = [](std::string_view text) {
        return said("[egress]\n* * * * * deny until=" + std::string(text)).find("is past") !=
               std::string::npos;
    };
    CHECK(warned("2026-01-01"));
    CHECK_FALSE(warned("2126-01-01"));
}

} // namespace egress::policy
