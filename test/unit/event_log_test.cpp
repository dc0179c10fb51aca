// Which events are written: shares by user and line, alarms apart, and what is not written counted.
#include "daemon/egress/event_log.h"

#include <cstring>

#include "core_test.h"
#include "daemon/control/watchers.h"
#include "daemon/egress/event_filter.h"

using namespace egress;
using Kind = EventLog::Kind;
using nlohmann::json;

namespace {

/// An event log over a list of lines.
struct Fixture {
    test::FakeClock clock;
    OwnerNames names;
    std::vector<std::pair<Kind, json>> lines;
    std::size_t room = 1'000'000;
    EventLog log{clock, names, [this](Kind kind, const std::string& line) {
                     if (lines.size() >= room) {
                         return false;
                     }
                     lines.emplace_back(kind, json::parse(line)); // throws where it is none
                     return true;
                 }};

    void add(Kind kind, std::uint32_t uid, std::uint32_t line, std::uint64_t looks = 1) {
        const auto rule = "f:" + std::to_string(line) + ":1";
        log.add({kind, uid, 1, line, looks, rule}, [&] {
            return json({{"uid", uid}, {"rule", rule}, {"count", looks}}).dump();
        });
    }
    std::uint64_t written(Kind kind, std::uint32_t uid) const {
        return static_cast<std::uint64_t>(std::ranges::count_if(lines, [&](const auto& line) {
            return line.first == kind && !line.second.contains("summary") &&
                   line.second["uid"] == uid;
        }));
    }
    std::vector<json> summaries() const {
        std::vector<json> out;
        for (const auto& [kind, line] : lines) {
            if (line.contains("summary")) {
                CHECK(line.size() == 1);
                out.push_back(line["summary"]);
            }
        }
        return out;
    }
    /// Events of each, written or told by a summary.
    std::uint64_t told() const {
        std::uint64_t out = 0;
        for (const auto& [kind, line] : lines) {
            out += line.contains("summary") ? line["summary"]["events"].get<std::uint64_t>() : 1;
        }
        return out;
    }
};

} // namespace

TEST_CASE("event log: one user's flood takes his share, and a summary has the rest to the last") {
    Fixture all;
    for (int i = 0; i < 150; ++i) {
        all.add(Kind::blocked, 1000, 3, 2);
    }
    all.add(Kind::blocked, 1001, 3);
    all.add(Kind::blocked, 1000, 4); // another line of the same user
    CHECK(all.written(Kind::blocked, 1000) == EventLog::limits_of(Kind::blocked).of_line + 1);
    CHECK(all.written(Kind::blocked, 1001) == 1);
    CHECK(all.summaries().empty());
    all.clock.pass(EventLog::window);
    all.log.tick();
    const auto summaries = all.summaries();
    REQUIRE(summaries.size() == 1);
    CHECK(summaries[0]["uid"] == 1000);
    CHECK(summaries[0]["rule"] == "f:3:1");
    CHECK(summaries[0]["kind"] == "blocked");
    CHECK(summaries[0]["scope"] == "line");
    CHECK(summaries[0]["events"] == 150 - EventLog::limits_of(Kind::blocked).of_line);
    CHECK(summaries[0]["looks"] == 2 * summaries[0]["events"].get<int>());
    CHECK(summaries[0]["since"] == "2023-11-15T01:00:00Z");
    CHECK(all.told() == 152);
    // The next minute begins anew, and has no more to tell.
    all.add(Kind::blocked, 1000, 3);
    CHECK(all.written(Kind::blocked, 1000) == EventLog::limits_of(Kind::blocked).of_line + 2);
    all.log.flush();
    CHECK(all.summaries().size() == 1);
}

TEST_CASE("event log: the noise of one line leaves room for a user's others") {
    Fixture all;
    for (std::uint32_t line = 1; line <= 3; ++line) {
        for (int i = 0; i < 100; ++i) {
            all.add(Kind::blocked, 1000, line);
        }
    }
    const auto before = all.written(Kind::blocked, 1000);
    CHECK(before <= EventLog::limits_of(Kind::blocked).of_user + EventLog::first_of_line);
    all.add(Kind::blocked, 1000, 77);
    CHECK(all.written(Kind::blocked, 1000) == before + 1);
}

TEST_CASE("event log: kinds are apart, and many users together leave a part for those who come") {
    Fixture all;
    for (std::uint32_t uid = 1000; uid < 1020; ++uid) {
        for (int i = 0; i < 100; ++i) {
            all.add(Kind::blocked, uid, 3);
        }
    }
    const auto limits = EventLog::limits_of(Kind::blocked);
    CHECK(all.lines.size() <= limits.all + limits.all_first);
    all.add(Kind::blocked, 5000, 3);
    all.add(Kind::blocked, 0, 3);
    all.add(Kind::alarm, 1000, 9);
    CHECK(all.written(Kind::blocked, 5000) == 1);
    CHECK(all.written(Kind::blocked, 0) == 1);
    CHECK(all.written(Kind::alarm, 1000) == 1);
    all.log.flush();
    CHECK(all.told() == 2003);
}

TEST_CASE("event log: tables are bounded, and the counts are exact all the same") {
    Fixture all;
    std::uint64_t sent = 0;
    for (std::uint32_t uid = 1; uid <= EventLog::most_users + 500; ++uid) {
        all.add(Kind::alarm, uid, 1);
        ++sent;
    }
    for (std::uint32_t line = 0; line < 5 * EventLog::most_lines; ++line) {
        all.add(Kind::alarm, 7, line);
        ++sent;
    }
    all.add(Kind::alarm, 0, 1);
    ++sent;
    CHECK(all.written(Kind::alarm, 0) == 1); // root is told apart though all rows are taken
    all.log.flush();
    CHECK(all.told() == sent);
    const auto summaries = all.summaries();
    CHECK(summaries.size() <= EventLog::most_summaries + 1);
    CHECK(summaries.back()["scope"] == "all");
    CHECK_FALSE(summaries.back().contains("uid"));
    const auto& counters = all.log.counters(Kind::alarm);
    CHECK(counters.written + counters.summed_up == sent);
}

TEST_CASE("event log: what a full log does not take is told when it can") {
    Fixture all;
    all.room = 5;
    for (int i = 0; i < 20; ++i) {
        all.add(Kind::blocked, 1000, 3);
    }
    CHECK(all.lines.size() == 5);
    all.clock.pass(EventLog::window);
    all.log.tick();
    CHECK(all.lines.size() == 5);
    all.room = 1000;
    all.clock.pass(EventLog::window);
    all.log.tick();
    REQUIRE(all.summaries().size() == 1);
    CHECK(all.summaries()[0]["scope"] == "all");
    CHECK(all.told() == 20);
}

TEST_CASE("event filter: each column, none, and what is wrong") {
    egress_event event{};
    event.flow.uid = 1000;
    event.flow.port = 80;
    constexpr std::array<std::uint8_t, 16> mapped = {0, 0, 0,    0,    0,   0, 0, 0,
                                                     0, 0, 0xff, 0xff, 192, 0, 2, 1};
    std::ranges::copy(mapped, event.flow.address);
    event.known = EGRESS_KNOWN_PROGRAM;
    event.action = EGRESS_EVENT_BLOCKED;
    std::strcpy(event.path, "/bin/x");
    policy::EgressRule rule;
    rule.place = {"/etc/egress.conf", 12, 1};
    const auto passes = [&](EventFilter::Query query, const policy::EgressRule* by) {
        const auto filter = EventFilter::of(query);
        REQUIRE(filter);
        return filter->passes(event, by);
    };
    CHECK(passes({}, &rule));
    CHECK(passes({{"uid", "1"}, {"uid", "1000"}, {"port", "80"}, {"addr", "192.0.2.0/24"}}, &rule));
    CHECK(passes({{"exe", "/bin/x"}, {"action", "BLOCKED"}, {"rule", "12"}}, &rule));
    CHECK(passes({{"rule", "/etc/egress.conf:12"}}, &rule));
    CHECK(passes({{"rule", "/etc/egress.conf:12:1"}}, &rule));
    CHECK(passes({{"rule", "none"}}, nullptr));
    CHECK_FALSE(passes({{"rule", "none"}}, &rule));
    CHECK_FALSE(passes({{"rule", "12"}}, nullptr));
    CHECK_FALSE(passes({{"rule", "1"}}, &rule)); // its column
    CHECK_FALSE(passes({{"uid", "1"}}, &rule));
    CHECK_FALSE(passes({{"uid", "1000"}, {"port", "81"}}, &rule));
    CHECK_FALSE(passes({{"addr", "192.0.3.0/24"}}, &rule));
    CHECK_FALSE(passes({{"exe", "/bin/y"}}, &rule));
    event.hook = EGRESS_HOOK_CREATE; // goes nowhere yet
    CHECK_FALSE(passes({{"port", "80"}}, &rule));
    CHECK_FALSE(passes({{"addr", "192.0.2.0/24"}}, &rule));
    for (const auto& [name, value] : EventFilter::Query{{"uid", "x"},
                                                        {"uid", ""},
                                                        {"port", "0"},
                                                        {"port", "65536"},
                                                        {"addr", "nobody"},
                                                        {"action", "blocked"},
                                                        {"color", "red"}}) {
        CHECK_FALSE(EventFilter::of({{name, value}}));
    }
    CHECK_FALSE(EventFilter::of(EventFilter::Query(65, {"uid", "1"})));
}

TEST_CASE("watchers: what a filter keeps out takes no room in the queue") {
    Watchers watchers;
    Producer wanted;
    Answer answer;
    answer.feed = [&](Producer producer) -> Wake {
        wanted = std::move(producer);
        return [] {};
    };
    CHECK(watchers.add(answer, 0, *EventFilter::of({{"uid", "7"}})) == Shares::Room::yes);
    egress_event event{};
    const OwnerNames names;
    const test::FakeClock clock;
    for (int i = 0; i < 10'000; ++i) {
        event.flow.uid = 1000;
        watchers.take({event, nullptr, "", false, names, nullptr, clock, std::string(1000, 'x')});
        if (i % 1000 == 0) {
            event.flow.uid = 7;
            watchers.take({event, nullptr, "", false, names, nullptr, clock, "mine"});
        }
    }
    std::string out;
    wanted(out);
    CHECK(out == "mine\nmine\nmine\nmine\nmine\nmine\nmine\nmine\nmine\nmine\n");
}

TEST_CASE("sinks: each gets an event, JSON is made once and only where it is read") {
    struct Sink final : EventSink {
        explicit Sink(bool wants) : reads(wants) {}
        void take(const EventView& view) override {
            ++taken;
            if (reads) {
                line = view.json();
            }
        }
        bool reads;
        int taken = 0;
        std::string line;
    };
    Sink blind(false);
    Sink reader(true);
    EventSinks sinks;
    sinks.add(blind);
    sinks.add(reader);
    egress_event event{};
    event.flow.uid = 77;
    const OwnerNames names;
    const test::FakeClock clock;
    const std::string domain = "files.example.org";
    EventView view{event, nullptr, domain, false, names, nullptr, clock, {}};
    sinks.emit(view);
    CHECK(blind.taken == 1);
    CHECK(reader.taken == 1);
    CHECK(reader.line.find("\"uid\":77") != std::string::npos);
    CHECK(reader.line.find("\"domain\":\"files.example.org\"") != std::string::npos);
    CHECK(view.text == reader.line);
    const std::string none;
    EventView other{event, nullptr, none, true, names, nullptr, clock, {}};
    blind.take(other);
    CHECK(other.text.empty());

    EventCounts counts;
    CountsSink counting(counts);
    counting.take(other); // of a selftest
    CHECK(counts.size() == 0);
    counting.take(view);
    CHECK(counts.size() == 1);
}
