// What was seen of the traffic: rows on disk and back, bounds of the table, and of what waits.
#include <functional>

#include <poll.h>

#include "core_test.h"
#include "daemon/store/event_counts.h"
#include "daemon/store/event_row.h"
#include "daemon/store/store.h"

using namespace egress;
using namespace egress::store;
using test::Folder;

namespace {

EventRow row_of(std::uint32_t uid, std::uint32_t number) {
    EventRow row;
    row.uid = uid;
    row.gid = 5;
    row.type = 1;
    row.protocol = 6;
    row.port = 443;
    const std::array<std::uint8_t, 4> bytes = {10, static_cast<std::uint8_t>(number >> 16),
                                               static_cast<std::uint8_t>(number >> 8),
                                               static_cast<std::uint8_t>(number)};
    row.address = Address::from_bytes(bytes);
    row.program = "/usr/bin/curl";
    row.rule = "egress.conf:3:1";
    row.count = 1;
    row.first = row.last = 1'700'000'000;
    return row;
}

std::vector<EventRow> rows_in(const std::string& directory) {
    const auto env = Env::open(directory, Env::Mode::read_only);
    REQUIRE(env);
    std::vector<EventRow> rows;
    REQUIRE(env->each_event([&](EventRow&& row) {
        rows.push_back(std::move(row));
        return true;
    }));
    return rows;
}

std::uint64_t sum(const std::vector<EventRow>& rows) {
    std::uint64_t out = 0;
    for (const auto& row : rows) {
        out += row.count;
    }
    return out;
}

/// A store over a new database, fed with batches.
class Fed {
  public:
    explicit Fed(const std::string& directory) {
        auto env = Env::open(directory, Env::Mode::read_write);
        REQUIRE(env);
        auto started = Store::start(std::move(*env));
        REQUIRE(started);
        store_ = std::move(*started);
    }
    void feed(const std::vector<EventRow>& rows) {
        Batch batch;
        for (const auto& row : rows) {
            batch.count(row);
        }
        store_->submit(batch);
        REQUIRE(store_->wait().durable);
    }
    const EventTable::Counters& counters() const { return store_->events(); }

  private:
    std::unique_ptr<Store> store_;
};

} // namespace

TEST_CASE("event rows: they come back as they went, whatever bytes they hold") {
    auto row = row_of(1000, 7);
    row.flags = EventRow::container;
    row.action = EventRow::Action::monitored;
    row.count = 0x123456789aULL;
    std::vector<EventRow> rows = {row, widened(row), overflowed(row)};
    row.address = Address::parse("2001:db8::1");
    row.program = std::string("/a\0\xff\n", 5);
    row.rule = "";
    rows.push_back(row);
    for (const auto& each : rows) {
        std::vector<std::uint8_t> key;
        std::vector<std::uint8_t> value;
        encode_key(each, key);
        encode_value(each, value);
        const auto again = decode_event(key, value);
        REQUIRE(again);
        CHECK(*again == each);
        for (std::size_t cut = 0; cut < key.size(); ++cut) {
            CHECK_FALSE(decode_event(std::span(key).first(cut), value));
        }
        key[1] = 2; // another version
        CHECK_FALSE(decode_event(key, value));
    }
}

TEST_CASE("event rows: the longest key fits into LMDB's 511 bytes") {
    auto row = row_of(1, 1);
    row.address = Address::parse("2001:db8::1");
    row.program = std::string(5000, 'p');
    row.rule = std::string(5000, 'r') + ":12:1";
    std::vector<std::uint8_t> key;
    std::vector<std::uint8_t> value;
    encode_key(row, key);
    encode_value(row, value);
    CHECK(key.size() <= 511);
    const auto again = decode_event(key, value);
    REQUIRE(again);
    CHECK(again->rule.ends_with(":12:1")); // which line it was is what matters
}

TEST_CASE("event table: counts add up, over a restart too; older rows of the database stay") {
    const Folder folder;
    for (int i = 0; i < 3; ++i) {
        Fed fed(folder / "db");
        fed.feed({row_of(1, 1), row_of(1, 2), row_of(1, 1)});
    }
    const auto rows = rows_in(folder / "db");
    CHECK(rows.size() == 2);
    CHECK(sum(rows) == 9);
}

TEST_CASE(
    "event table: a user's flood folds his own destinations, and nothing is lost of the sum") {
    const Folder folder;
    Fed fed(folder / "db");
    std::vector<EventRow> flood;
    constexpr std::uint32_t sent = EventTable::most_of_user + 1000;
    for (std::uint32_t i = 0; i < sent; ++i) {
        flood.push_back(row_of(1000, i));
    }
    fed.feed(flood);
    fed.feed({row_of(1001, 1)});
    auto rows = rows_in(folder / "db");
    CHECK(rows.size() == EventTable::most_of_user + 2);
    CHECK(sum(rows) == sent + 1);
    CHECK(fed.counters().widened == 1000);
    CHECK(fed.counters().overflowed == 0);
    // So many programs and ports that even those are too many.
    flood.clear();
    for (std::uint32_t i = 0; i < EventTable::most_wide + 100; ++i) {
        auto row = row_of(1000, sent + i);
        row.port = static_cast<std::uint16_t>(1 + i);
        flood.push_back(row);
    }
    fed.feed(flood);
    rows = rows_in(folder / "db");
    CHECK(rows.size() <= EventTable::most_of_user + EventTable::most_wide + 2);
    CHECK(sum(rows) == sent + 1 + flood.size());
    CHECK(fed.counters().overflowed > 0);
    CHECK(fed.counters().rows == rows.size());
}

TEST_CASE("event table: what has not been seen for long is forgotten") {
    const Folder folder;
    Fed fed(folder / "db");
    fed.feed({row_of(1, 1), row_of(1, 2)});
    auto later = row_of(1, 2);
    later.first = later.last = later.last + EventTable::remembered + 1;
    fed.feed({later});
    const auto rows = rows_in(folder / "db");
    REQUIRE(rows.size() == 1);
    CHECK(rows[0].address == later.address);
}

TEST_CASE("event counts: what waits is bounded for each user, and nothing of the sum is lost") {
    EventCounts counts;
    constexpr std::uint32_t sent = 3 * EventCounts::most_of_user;
    for (std::uint32_t i = 0; i < sent; ++i) {
        counts.add(row_of(1000, i));
    }
    CHECK(counts.size() == EventCounts::most_of_user + 1);
    counts.add(row_of(1001, 1));
    CHECK(counts.size() == EventCounts::most_of_user + 2);
    for (std::uint32_t uid = 2000; uid < 2010; ++uid) {
        for (std::uint32_t i = 0; i < EventCounts::most_of_user; ++i) {
            counts.add(row_of(uid, i));
        }
    }
    CHECK(counts.size() <= EventCounts::most + 1);
    const Folder folder;
    {
        auto env = Env::open(folder / "db", Env::Mode::read_write);
        REQUIRE(env);
        auto store = Store::start(std::move(*env));
        REQUIRE(store);
        Batch batch;
        counts.collect(batch);
        CHECK_FALSE(counts.changed());
        (*store)->submit(batch);
        REQUIRE((*store)->wait().durable);
    }
    CHECK(sum(rows_in(folder / "db")) == sent + 1 + 10 * EventCounts::most_of_user);
}

TEST_CASE("event table: the writer reads it between two batches, while more come") {
    const Folder folder;
    auto env = Env::open(folder / "db", Env::Mode::read_write);
    REQUIRE(env);
    auto store = Store::start(std::move(*env));
    REQUIRE(store);
    CHECK_FALSE((*store)->take_events());
    const auto read = [&] {
        for (int i = 0; i < 1000; ++i) {
            if (auto events = (*store)->take_events()) {
                return events;
            }
            pollfd bell{(*store)->fd(), POLLIN, 0};
            poll(&bell, 1, 10);
        }
        return std::shared_ptr<const Store::Events>();
    };
    for (std::uint32_t i = 1; i <= 20; ++i) {
        Batch batch;
        batch.count(row_of(1, i));
        (*store)->submit(batch);
        (*store)->ask_events(); // the batch comes first
        REQUIRE((*store)->wait().durable);
        const auto events = read();
        REQUIRE(events);
        CHECK(events->error.empty());
        CHECK(events->damaged == 0);
        CHECK(events->rows.size() == i);
    }
    (*store)->ask_events(); // the answer is never read
}

TEST_CASE("meta: set and deleted with a batch") {
    const Folder folder;
    auto env = Env::open(folder / "db", Env::Mode::read_write);
    REQUIRE(env);
    auto store = Store::start(std::move(*env));
    REQUIRE(store);
    for (const std::string text : {"one", "", "two"}) {
        Batch batch;
        batch.set_meta("trial", text);
        (*store)->submit(batch);
        REQUIRE((*store)->wait().durable);
        CHECK(*(*store)->env().meta("trial") == text);
    }
}
