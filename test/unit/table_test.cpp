// The table against a plain map: a million random operations, then its orders and its bounds.
#include "daemon/count/table.h"

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <set>
#include <utility>

#include "core_test.h"

using namespace egress;
using namespace egress::test;
using store::State;

namespace {

Key key_of(std::uint32_t number) {
    std::array<std::uint8_t, 16> bytes{0x20, 0x01, 0x0d, 0xb8};
    for (int i = 0; i < 4; ++i) {
        bytes[static_cast<std::size_t>(12 + i)] = static_cast<std::uint8_t>(number >> i * 8);
    }
    return Key::of(static_cast<policy::NameId>(number % 3),
                   Prefix::host(*Address::from_bytes(bytes)), 6,
                   static_cast<std::uint16_t>(number % 5));
}

/// What the table should hold of one key.
struct Plain {
    RowId row = no_row;
    Moment until = never;
    std::string id;
    std::size_t past = 0;
};

/// The table and the truth, changed together.
class Pair {
  public:
    Table table{1'000'000};
    std::map<std::uint32_t, Plain> truth;
    std::list<std::uint32_t> by_age; // oldest first
    std::set<std::pair<std::int32_t, RowId>> deadlines;

    void add(std::uint32_t number) {
        Plain& plain = truth[number];
        plain.row = table.add(key_of(number));
        by_age.push_back(number);
    }
    void remove(std::uint32_t number) {
        const Plain& plain = truth.at(number);
        deadlines.erase({pack(plain.until), plain.row});
        table.remove(plain.row);
        truth.erase(number);
        by_age.remove(number);
    }
    void deadline(std::uint32_t number, Moment until) {
        Plain& plain = truth.at(number);
        deadlines.erase({pack(plain.until), plain.row});
        plain.until = until;
        table.set_deadline(plain.row, until);
        if (pack(until) != never32) {
            deadlines.insert({pack(until), plain.row});
        }
    }
    void refresh(std::uint32_t number) {
        const RowId row = truth.at(number).row;
        table.refresh(row);
        by_age.remove(number);
        if (table[row].state == State::counting) {
            by_age.push_back(number);
        }
    }
    void check() {
        REQUIRE(table.size() == truth.size());
        REQUIRE((table.no_deadline_before() == never) == deadlines.empty());
        if (!deadlines.empty()) {
            const Moment first = unpack(deadlines.begin()->first);
            REQUIRE(table.no_deadline_before() <= first);
            if (first % 3 == 0) { // else the heap may stay behind for a while
                std::size_t most = SIZE_MAX;
                REQUIRE(table.due(first - 1, most) == no_row);
                REQUIRE(table.no_deadline_before() == first);
                const RowId due = table.due(first, most);
                REQUIRE(due != no_row);
                REQUIRE(unpack(table[due].until) == first);
            }
        }
        const RowId oldest = table.oldest_counting();
        REQUIRE((oldest == no_row) == by_age.empty());
        if (!by_age.empty()) {
            REQUIRE(oldest == truth.at(by_age.front()).row);
        }
    }
    void check_all() {
        check();
        for (const auto& [number, plain] : truth) {
            REQUIRE(table.find(key_of(number)) == plain.row);
            REQUIRE(std::as_const(table)[plain.row].used);
            REQUIRE(table[plain.row].key == key_of(number));
            REQUIRE(unpack(table[plain.row].until) == plain.until);
            REQUIRE(table.id(plain.row) == plain.id);
            const Past* const past = table.find_past(plain.row);
            REQUIRE((past == nullptr ? 0 : past->size()) == plain.past);
        }
        std::size_t counted = 0;
        RowId newer = no_row;
        for (RowId row = table.oldest_counting(); row != no_row; row = table[row].newer) {
            REQUIRE(table[row].older == newer);
            newer = row;
            ++counted;
        }
        REQUIRE(counted == by_age.size());
    }
};

} // namespace

TEST_CASE("a million random operations agree with a map") {
    // Few keys, so that the list of the oracle stays short and the same slots are used again.
    Pair pair;
    std::mt19937 random(17);
    constexpr std::uint32_t keys = 96;
    for (int step = 0; step < 1'000'000; ++step) {
        const auto number = static_cast<std::uint32_t>(random() % keys);
        const auto found = pair.truth.find(number);
        const RowId row = pair.table.find(key_of(number));
        REQUIRE((row == no_row) == (found == pair.truth.end()));
        if (found == pair.truth.end()) {
            pair.add(number);
        } else {
            REQUIRE(row == found->second.row);
            switch (random() % 8) {
            case 0:
            case 1:
                pair.remove(number);
                break;
            case 2:
                pair.deadline(number,
                              random() % 8 == 0 ? never : static_cast<Moment>(random() % 1000));
                break;
            case 3:
                pair.table[row].state = static_cast<State>(random() % 3);
                pair.refresh(number);
                break;
            case 4:
                pair.refresh(number);
                break;
            case 5:
                pair.table.set_id(row, std::to_string(step));
                found->second.id = std::to_string(step);
                break;
            case 6:
                pair.table.past(row).emplace_back(1, 1);
                found->second.past += 1;
                break;
            default:
                pair.table.drop_past(row);
                found->second.past = 0;
                break;
            }
        }
        pair.check();
        if (step % 20'000 == 0) {
            pair.check_all();
        }
    }
    pair.check_all();
}

TEST_CASE("the index grows and shrinks back to nothing with every row still found") {
    Table table(1'000'000);
    constexpr std::uint32_t rows = 200'000;
    std::vector<RowId> ids;
    std::vector<TableRow*> places;
    for (std::uint32_t i = 0; i < rows; ++i) {
        ids.push_back(table.add(key_of(i)));
        places.push_back(&table[ids.back()]);
        table.set_deadline(ids.back(), static_cast<Moment>(i * 7919u % rows));
    }
    CHECK(table.size() == rows);
    CHECK(table.rows_end() == rows);
    for (std::uint32_t i = 0; i < rows; ++i) {
        REQUIRE(table.find(key_of(i)) == ids[i]);
        REQUIRE(&table[ids[i]] == places[i]); // rows never move, and none lies on two cache lines
        REQUIRE(reinterpret_cast<std::uintptr_t>(places[i]) % 64 == 0);
    }
    CHECK(table.find(key_of(rows)) == no_row);
    // Deadlines come out in order.
    Moment last = 0;
    for (std::uint32_t i = 0; i < rows; ++i) {
        std::size_t most = 1; // nothing was moved
        const RowId first = table.due(never, most);
        REQUIRE(first != no_row);
        REQUIRE(most == 0);
        REQUIRE(unpack(table[first].until) >= last);
        last = unpack(table[first].until);
        table.remove(first);
    }
    CHECK(table.size() == 0);
    CHECK(table.no_deadline_before() == never);
    CHECK(table.oldest_counting() == no_row);
    for (std::uint32_t i = 0; i < rows; i += 997) {
        REQUIRE(table.find(key_of(i)) == no_row);
    }
    // Freed row numbers are used again before new ones.
    table.add(key_of(1));
    CHECK(table.rows_end() == rows);
}

TEST_CASE("a removed row leaves nothing behind for the next one in its place") {
    Table table(10);
    const RowId row = table.add(key_of(1));
    table.past(row).emplace_back(5, 5);
    table.set_id(row, "7");
    table[row].count = 9;
    table[row].state = State::blocked;
    table.refresh(row);
    table.set_deadline(row, 50);
    table.remove(row);
    const RowId again = table.add(key_of(2));
    REQUIRE(again == row);
    CHECK(table[again].count == 0);
    CHECK(table[again].state == State::counting);
    CHECK(table.id(again).empty());
    CHECK(table.find_past(again) == nullptr);
    CHECK(table.no_deadline_before() == never);
    CHECK(table.oldest_counting() == again);
}

TEST_CASE("a deadline that moved comes up at its new moment, and what that takes is bounded") {
    Table table(1000);
    std::vector<RowId> rows;
    for (std::uint32_t i = 0; i < 100; ++i) {
        rows.push_back(table.add(key_of(i)));
        table.set_deadline(rows.back(), 50);
    }
    for (const RowId row : rows) {
        table.set_deadline(row, 70);
    }
    table.set_deadline(rows[40], 60); // earlier again, and still later than at first
    table.set_deadline(rows[41], 40);
    std::size_t most = 1000;
    CHECK(table.due(39, most) == no_row);
    CHECK(table.due(49, most) == rows[41]);
    CHECK(most == 999);
    table.remove(rows[41]);
    most = 30;
    CHECK(table.due(55, most) == no_row); // it has put thirty right, and had no more
    CHECK(most == 0);
    CHECK(table.no_deadline_before() == 50);
    most = 1000;
    CHECK(table.due(55, most) == no_row);
    CHECK(most == 1000 - 69);
    CHECK(table.no_deadline_before() == 60);
    CHECK(table.due(65, most) == rows[40]);
    table.set_deadline(rows[40], never);
    CHECK(table.due(69, most) == no_row);
    for (std::size_t left = 98; left > 0; --left) {
        const RowId row = table.due(70, most);
        REQUIRE(row != no_row);
        table.remove(row);
    }
    CHECK(table.due(70, most) == no_row);
    CHECK(table.size() == 1);
}

TEST_CASE("looking ahead finds the row of the key, and changes nothing") {
    Table table(50'000);
    std::vector<Table::Ahead> ahead;
    for (std::uint32_t i = 0; i < 20'000; ++i) {
        table.add(key_of(i));
    }
    for (std::uint32_t i = 0; i < 30'000; ++i) {
        ahead.push_back(table.look_ahead(key_of(i)));
    }
    std::size_t right = 0;
    for (std::uint32_t i = 0; i < 30'000; ++i) {
        table.look_ahead_at_row(ahead[i]);
        table.look_ahead_at_neighbours(ahead[i]);
        right += ahead[i].row == table.find(key_of(i));
    }
    CHECK(right >= 29'900); // a part of the hash may be that of another key
    CHECK(table.size() == 20'000);
}

TEST_CASE("the four columns and the prefix length make different keys") {
    Table table(100);
    const Prefix host = prefix("192.0.2.0");
    std::vector<Key> keys = {Key::of(0, host, 6, 22),
                             Key::of(1, host, 6, 22),
                             Key::of(0, host, 17, 22),
                             Key::of(0, host, 6, 23),
                             Key::of(0, host, 0, 22),
                             Key::of(0, host, 6, 0),
                             Key::of(0, prefix("192.0.2.0/24"), 6, 22),
                             Key::of(0, prefix("192.0.2.1"), 6, 22),
                             Key::of(0, prefix("::"), 6, 22)};
    for (const Key& key : keys) {
        REQUIRE(table.find(key) == no_row);
        table.add(key);
    }
    for (const Key& key : keys) {
        CHECK(table[table.find(key)].key == key);
        CHECK(Key::of(key.name, key.prefix(), key.protocol, key.port) == key);
    }
    CHECK(table.size() == keys.size());
}

TEST_CASE("moments are packed into 32 bits, saturating") {
    CHECK(pack(5) == 5);
    CHECK(unpack(pack(-5)) == -5);
    CHECK(unpack(pack(never)) == never);
    CHECK(pack(Moment{1} << 40) == never32);
    CHECK(pack(-(Moment{1} << 40)) == -never32);
    CHECK(unpack(never32 - 1) == never32 - 1);
}

TEST_CASE("room is made for what is expected, no more than fits, and for what comes beyond it") {
    Table table(3000);
    for (std::uint32_t i = 0; i < 200; ++i) {
        table.set_deadline(table.add(key_of(i)), 1000 - i);
    }
    for (std::uint32_t i = 0; i < 200; i += 2) {
        table.remove(table.find(key_of(i))); // holes are no rows
    }
    for (const std::size_t rows : {std::size_t{0}, std::size_t{2000}, SIZE_MAX}) {
        table.reserve(rows);
        CHECK(table.size() == 100);
        for (std::uint32_t i = 0; i < 200; ++i) {
            REQUIRE((table.find(key_of(i)) != no_row) == (i % 2 == 1));
        }
        CHECK(table.no_deadline_before() == 801);
        CHECK(table.find(Key{}) == no_row);
    }
    for (std::uint32_t i = 200; i < 20'000; ++i) {
        table.add(key_of(i));
    }
    for (std::uint32_t i = 199; i < 20'000; ++i) {
        REQUIRE(table[table.find(key_of(i))].key == key_of(i));
    }
}
