// The ledger over restarts, under pressure, and beside a firewall that knows more or less than it.
#include <random>

#include "ledger_world.h"

using namespace egress;
using namespace egress::test;

TEST_CASE("reports that come together count as they do one by one, in a full table too") {
    constexpr const char* text = "ssh stream tcp * * 3 10m escalate=2,window=5m,grow=24:2\n"
                                 "smtp stream tcp * -mail 2 1m ports=all\n";
    World together(text, false, 60);
    World alone(text, false, 60);
    std::mt19937 random(7);
    for (int turn = 0; turn < 500; ++turn) {
        std::vector<Report> reports;
        for (unsigned i = random() % 40; i > 0; --i) {
            Report report = report_of("10.0.0.1", static_cast<Action>(random() % 6 == 0 ? 0 : 1));
            const std::array<std::uint8_t, 4> bytes = {198, 51,
                                                       static_cast<std::uint8_t>(random() % 4),
                                                       static_cast<std::uint8_t>(random() % 40)};
            report.remote.address = *Address::from_bytes(bytes);
            report.local.port = std::array<std::uint16_t, 4>{22, 22, 25, 80}[random() % 4];
            reports.push_back(report);
        }
        together.ledger.report(reports);
        for (const Report& report : reports) {
            alone.report(report);
        }
        REQUIRE(sorted(together.rows()) == sorted(alone.rows()));
        REQUIRE(together.ledger.change_number() == alone.ledger.change_number());
        REQUIRE(together.obey() == alone.obey());
        const auto seconds = static_cast<Seconds>(random() % 90);
        together.pass(seconds);
        alone.pass(seconds);
    }
    CHECK(together.ledger.counters().blocks > 100);
    CHECK(together.ledger.counters().evicted > 100);
    CHECK(together.ledger.counters().unmatched > 100);
    together.check();
}

TEST_CASE("restart: every row comes back as it was, with what it asks of the firewall") {
    constexpr const char* text = "ssh stream tcp * * 3 10m escalate=2,window=5m,grow=24:2,reject\n"
                                 "smtp stream tcp * -mail 4 *\n";
    World world(text);
    Disk disk;
    std::mt19937 random(31);
    for (int i = 0; i < 4000; ++i) {
        Report report = report_of("10.0.0.1", static_cast<Action>(random() % 8 == 0 ? 0 : 1));
        const std::array<std::uint8_t, 4> bytes = {198, 51, static_cast<std::uint8_t>(random() % 4),
                                                   static_cast<std::uint8_t>(random() % 40)};
        report.remote.address = *Address::from_bytes(bytes);
        report.local.port = random() % 3 == 0 ? 25 : 22;
        world.report(report);
        if (random() % 4 == 0) {
            world.pass(static_cast<Seconds>(random() % 60));
        }
        if (random() % 16 == 0) {
            world.obey();
        }
        if (random() % 200 == 0) {
            disk.save(world);
        }
    }
    REQUIRE(world.ledger.block({"by-hand", prefix("203.0.113.0/24"), 17, 53, 99, "no reason"}));
    REQUIRE(world.ledger.block({"", prefix("2001:db8::/32"), 0, 0, forever, ""}));
    world.check();
    disk.save(world);
    CHECK_FALSE(world.ledger.changed());

    World other(text);
    other.clock = world.clock;
    other.clock.boot = 50; // another boot
    other.clock.offset = world.clock.wall() - 50;
    disk.load(other);
    const auto before = sorted(world.rows());
    const auto after = sorted(other.rows());
    REQUIRE(before.size() == after.size());
    REQUIRE(before.size() > 50);
    for (std::size_t i = 0; i < before.size(); ++i) {
        INFO(before[i].address.text(), " ", before[i].name);
        CHECK(before[i] == after[i]);
    }
    other.check();
    // What was not confirmed is asked for again, what was confirmed is not.
    std::size_t asked = 0;
    while (const auto key = other.feed.next()) {
        ++asked;
    }
    CHECK(asked == world.ledger.not_in_force() + world.ledger.releasing());
    CHECK_FALSE(other.ledger.changed());
}

TEST_CASE("restart: deletions reach the disk, also of a row that came again") {
    World world;
    Disk disk;
    world.report("192.0.2.1", Action::fail, 2);
    world.report("192.0.2.2", Action::fail, 2);
    disk.save(world);
    world.report("192.0.2.1", Action::ok); // gone
    world.report("192.0.2.2", Action::ok);
    world.report("192.0.2.2"); // gone and there again
    world.report("192.0.2.3");
    world.report("192.0.2.3", Action::ok); // never seen by the disk
    disk.save(world);
    World other;
    other.clock = world.clock;
    disk.load(other);
    CHECK(other.ledger.table().size() == 1);
    CHECK(other.row("192.0.2.2").count == 1);
}

TEST_CASE("restart: what ended while away is released at the first look at the time") {
    World world;
    Disk disk;
    world.report("192.0.2.1", Action::abusive);
    world.report("192.0.2.2");
    world.obey();
    disk.save(world);
    World other;
    other.clock = world.clock;
    other.clock.pass(10'000);
    disk.load(other);
    CHECK(other.ledger.blocked() == 1);
    other.pass(0);
    CHECK(other.ledger.blocked() == 0);
    CHECK(other.find("192.0.2.2") == no_row);
    CHECK(other.obey() == std::vector<std::string>{"rem 192.0.2.1"});
    CHECK(other.ledger.table().size() == 0);
}

TEST_CASE("restart: a wall clock that stands wrong never stretches a block") {
    World world;
    Disk disk;
    world.report("192.0.2.1", Action::abusive);
    world.report("192.0.2.2");
    disk.save(world);
    World other;
    other.clock.offset = -other.clock.boot; // 1970
    disk.load(other);
    other.pass(600);
    other.obey();
    CHECK(other.ledger.table().size() == 0);
}

TEST_CASE("a full table: the count untouched longest goes first, blocks never, all is counted") {
    World world("ssh stream tcp * * 2 10m\n", false, 10);
    const auto host = [](int i) { return "192.0.2." + std::to_string(i); };
    for (int i = 1; i <= 4; ++i) {
        world.report(host(i), Action::abusive);
    }
    for (int i = 11; i <= 16; ++i) {
        world.report(host(i));
    }
    CHECK(world.ledger.table().size() == 10);
    CHECK(world.ledger.counters().evicted == 0);
    world.report(host(11), Action::ok); // gone
    world.report(host(11));             // and young again
    world.report(host(21));
    CHECK(world.find(host(12)) == no_row);
    CHECK(world.find(host(11)) != no_row);
    CHECK(world.ledger.counters().evicted == 1);
    for (int i = 31; i <= 36; ++i) {
        world.report(host(i), Action::abusive);
    }
    CHECK(world.ledger.blocked() == 10);
    CHECK(world.ledger.counters().evicted == 7);
    world.report(host(99));
    CHECK(world.find(host(99)) == no_row);
    CHECK(world.ledger.counters().table_full == 1);
    CHECK_FALSE(world.ledger.block({"", prefix("203.0.113.1"), 0, 0, 60, ""}));
    CHECK(world.ledger.blocked() == 10);
    world.check();
}

TEST_CASE("a flood over a full table with the disk away takes no memory that grows") {
    World world("ssh stream tcp * * 5 10m\n", false, 1000);
    for (std::uint32_t i = 0; i < 200'000; ++i) {
        Report report = report_of("10.9.9.9");
        const std::array<std::uint8_t, 4> bytes = {100, static_cast<std::uint8_t>(i >> 16),
                                                   static_cast<std::uint8_t>(i >> 8),
                                                   static_cast<std::uint8_t>(i)};
        report.remote.address = *Address::from_bytes(bytes);
        world.report(report);
    }
    CHECK(world.ledger.counters().evicted == 199'000);
    store::Batch batch;
    world.ledger.collect(batch, 1'000'000);
    CHECK(batch.size() == 1000); // the rows; nothing of those that the disk never saw
    CHECK_FALSE(world.ledger.changed());
}

TEST_CASE("collect is bounded, follows the order of change and says how far it came") {
    World world;
    for (int i = 1; i <= 100; ++i) {
        world.report("192.0.2." + std::to_string(i));
    }
    store::Batch batch;
    world.ledger.collect(batch, 30);
    CHECK(batch.size() == 30);
    CHECK(world.ledger.collected() == 30);
    batch.clear();
    world.report("192.0.2.100"); // waits already: no second place
    world.ledger.collect(batch, 30);
    CHECK(world.ledger.collected() == 60);
    batch.clear();
    world.ledger.collect(batch, 1000);
    CHECK(batch.size() == 40);
    CHECK(world.ledger.collected() == world.ledger.change_number());
}

TEST_CASE("escalation is remembered over block, release and restart") {
    constexpr const char* text = "ssh stream tcp * * 1 1m escalate=2,max=1h\n";
    World world(text);
    world.report("192.0.2.1");
    world.obey();
    world.pass(60);
    world.obey();
    CHECK(world.row("192.0.2.1").state == State::counting);
    Disk disk;
    disk.save(world);
    World other(text);
    other.clock = world.clock;
    disk.load(other);
    other.report("192.0.2.1");
    CHECK(unpack(other.row("192.0.2.1").until) == other.clock.now() + 120);
    other.obey();
    other.pass(120);
    other.obey();
    other.pass(24 * 60 * 60);
    CHECK(other.ledger.table().size() == 0); // a day without a failure: forgotten
}

TEST_CASE("adopt: what stands in the firewall and is not remembered as a block becomes one") {
    World world;
    Element found{"egress", prefix("192.0.2.1"), 6, 22, 300, true, {}};
    SUBCASE("unknown") {
        world.ledger.adopt(found);
        CHECK(world.row("192.0.2.1").state == State::blocked);
        CHECK((world.row("192.0.2.1").flags & store::reject) != 0);
        CHECK(world.ledger.not_in_force() == 0);
        CHECK(world.ledger.changed());
        CHECK(unpack(world.row("192.0.2.1").until) == world.clock.now() + 300);
        world.report("192.0.2.1", Action::ok); // no block by hand: it can be lifted
        CHECK(world.ledger.releasing() == 1);
    }
    SUBCASE("known as counting: the block came after the last commit") {
        world.report("192.0.2.1", Action::fail, 2);
        world.ledger.adopt(found);
        CHECK(world.row("192.0.2.1").state == State::blocked);
        CHECK(world.ledger.blocked() == 1);
        CHECK(world.ledger.not_in_force() == 0);
    }
    SUBCASE("known as blocked: the later end counts") {
        world.report("192.0.2.1", Action::abusive);
        found.seconds = 900;
        world.ledger.adopt(found);
        CHECK(unpack(world.row("192.0.2.1").until) == world.clock.now() + 900);
        found.seconds = 5;
        world.ledger.adopt(found);
        CHECK(unpack(world.row("192.0.2.1").until) == world.clock.now() + 900);
    }
    SUBCASE("known as released: it goes") {
        world.report("192.0.2.1", Action::abusive);
        world.report("192.0.2.1", Action::ok);
        world.ledger.adopt(found);
        CHECK(world.ledger.blocked() == 0);
        CHECK(world.obey() == std::vector<std::string>{"rem 192.0.2.1"});
    }
    SUBCASE("for ever, and already over") {
        found.seconds = forever;
        world.ledger.adopt(found);
        CHECK(unpack(world.row("192.0.2.1").until) == never);
        found.address = prefix("192.0.2.2");
        found.seconds = 0;
        world.ledger.adopt(found);
        world.pass(0);
        CHECK(world.ledger.blocked() == 1);
    }
    world.check();
}

TEST_CASE("distrust: every block is asked for again, and the disk hears that none is in force") {
    World world;
    Disk disk;
    world.report("192.0.2.1", Action::abusive);
    world.report("192.0.2.2", Action::abusive);
    world.report("192.0.2.3");
    world.obey();
    disk.save(world);
    world.ledger.distrust();
    CHECK(world.ledger.not_in_force() == 2);
    disk.save(world);
    World other;
    other.clock = world.clock;
    disk.load(other);
    CHECK(other.ledger.not_in_force() == 2);
    CHECK(other.obey().size() == 2);
    CHECK(world.obey().size() == 2);
    CHECK(world.ledger.not_in_force() == 0);
}

TEST_CASE("touch_pending asks for what was not confirmed, and for nothing else") {
    World world;
    world.report("192.0.2.1", Action::abusive);
    world.obey();
    world.report("192.0.2.2", Action::abusive);
    world.report("192.0.2.3", Action::abusive);
    world.report("192.0.2.3", Action::ok);
    world.report("192.0.2.4");
    while (world.feed.next()) { // taken by somebody who then failed
    }
    world.ledger.add_pending(world.feed);
    CHECK(world.obey() == std::vector<std::string>{"add 192.0.2.2", "rem 192.0.2.3"});
}
