// The ledger with a clock moved by hand: reports and the operator's word in, rows and requests out.
#include "ledger_world.h"

using namespace egress;
using namespace egress::test;

TEST_CASE("failures are counted, the third blocks, the firewall is asked once and confirms") {
    World world;
    world.report("192.0.2.1", Action::fail, 2);
    CHECK(world.row("192.0.2.1").count == 2);
    CHECK(world.row("192.0.2.1").nfail == 3);
    CHECK(world.feed.empty());
    world.report("192.0.2.1");
    CHECK(world.ledger.blocked() == 1);
    CHECK(world.ledger.not_in_force() == 1);
    const auto key = world.feed.next();
    REQUIRE(key);
    CHECK_FALSE(world.feed.next());
    const auto wanted = world.ledger.wanted(*key);
    REQUIRE(wanted);
    CHECK(wanted->name == "egress");
    CHECK(wanted->address == prefix("192.0.2.1"));
    CHECK(wanted->protocol == 6);
    CHECK(wanted->port == 22);
    CHECK(wanted->seconds == 600);
    CHECK_FALSE(wanted->reject);
    world.ledger.confirm(*key, true, "h7");
    CHECK(world.ledger.not_in_force() == 0);
    CHECK(world.ledger.element(*key).id == "h7");
    CHECK(world.ledger.counters().blocks == 1);
    CHECK(world.ledger.counters().failures == 3);
    world.check();
}

TEST_CASE("a block ends by itself: releasing until the firewall confirms, then forgotten") {
    World world;
    world.report("192.0.2.1", Action::abusive);
    CHECK(world.obey() == std::vector<std::string>{"add 192.0.2.1"});
    CHECK(unpack(world.row("192.0.2.1").until) == world.clock.now() + 600);
    world.pass(599);
    CHECK(world.ledger.blocked() == 1);
    world.pass(1);
    CHECK(world.ledger.blocked() == 0);
    CHECK(world.ledger.releasing() == 1);
    CHECK(world.ledger.counters().expired == 1);
    world.check();
    CHECK(world.obey() == std::vector<std::string>{"rem 192.0.2.1"});
    CHECK(world.ledger.table().size() == 0);
    CHECK(world.ledger.table().no_deadline_before() == never);
    world.check();
}

TEST_CASE("counts are forgotten after the rule's time, a fresh failure moves it") {
    World world;
    world.report("192.0.2.1");
    world.pass(599);
    world.report("192.0.2.1");
    world.pass(599);
    CHECK(world.row("192.0.2.1").count == 2);
    world.pass(1);
    CHECK(world.ledger.table().size() == 0);
    CHECK(world.ledger.counters().expired == 0); // no block ended
}

TEST_CASE("a success clears a count and lifts a block; of what is unknown it makes no row") {
    World world;
    world.report("192.0.2.9", Action::ok);
    CHECK(world.ledger.table().size() == 0);
    world.report("192.0.2.1", Action::fail, 2);
    world.report("192.0.2.1", Action::ok);
    CHECK(world.ledger.table().size() == 0);
    world.report("192.0.2.1", Action::fail, 3);
    world.obey();
    world.report("192.0.2.1", Action::ok);
    CHECK(world.ledger.releasing() == 1);
    CHECK(world.ledger.counters().lifted == 1);
    CHECK(world.obey() == std::vector<std::string>{"rem 192.0.2.1"});
    CHECK(world.ledger.table().size() == 0);
    CHECK(world.ledger.counters().successes == 3);
}

TEST_CASE("block, lift and block with answers on their way end as the last word says") {
    World world;
    world.report("192.0.2.1", Action::fail, 3);
    const auto add = world.feed.next();
    REQUIRE(add);
    world.report("192.0.2.1", Action::ok); // before the helper answered
    const auto rem = world.feed.next();
    REQUIRE(rem);
    CHECK_FALSE(world.ledger.wanted(*rem));
    world.report("192.0.2.1", Action::fail, 3);
    const auto again = world.feed.next();
    REQUIRE(again);
    CHECK(world.ledger.wanted(*again));
    world.ledger.confirm(*rem, false, {}); // late: must not release what is blocked anew
    CHECK(world.ledger.blocked() == 1);
    world.ledger.confirm(*again, true, {});
    CHECK(world.ledger.not_in_force() == 0);
    world.check();
    // The other way round: an add's answer while releasing.
    world.report("192.0.2.1", Action::ok);
    world.ledger.confirm(*again, true, {});
    CHECK(world.ledger.releasing() == 1);
    world.check();
}

TEST_CASE("a refused add is not in force") {
    World world;
    world.report("192.0.2.1", Action::fail, 3);
    world.obey();
    const Key key = world.row("192.0.2.1").key;
    world.ledger.deny(key);
    CHECK(world.ledger.not_in_force() == 1);
    world.feed.add(key);
    CHECK(world.obey() == std::vector<std::string>{"add 192.0.2.1"});
    CHECK(world.ledger.not_in_force() == 0);
    world.check();
}

TEST_CASE("a report counts where the reporter could not choose the port") {
    World world("sip stream tcp * * 1 10m\n"
                "sip-tls stream tcp 1000 * 1 10m\n"
                "ssh stream tcp * * 1 10m\n");
    int number = 0;
    const auto blocks = [&](std::uint16_t port, std::uint32_t uid, std::uint32_t maker,
                            bool by_socket = true) {
        const std::string remote = "192.0.2." + std::to_string(++number);
        Report report = report_of(remote, Action::abusive);
        report.local.port = port;
        report.uid = uid;
        report.maker = maker;
        report.by_socket = by_socket;
        const auto before = world.ledger.blocked();
        world.report(report);
        return world.ledger.blocked() > before;
    };
    CHECK_FALSE(blocks(5060, 1000, 1000)); // the port was his to choose
    CHECK_FALSE(blocks(5060, 1000, 1001)); // so it was if another uid of his made the socket
    CHECK(world.ledger.counters().unproved == 2);
    CHECK(blocks(5060, 0, 1000));
    CHECK(blocks(5060, 1000, 0));    // root accepted it
    CHECK(blocks(5061, 1000, 1000)); // the line names him
    CHECK(blocks(22, 1000, 1000));
    CHECK(blocks(5060, 1000, 1000, false)); // only by a [trusted] line
    world.ledger.set_unprivileged_port(22);
    CHECK_FALSE(blocks(22, 1000, 1000));
    CHECK(world.ledger.is_known(1000));
    CHECK(world.ledger.is_known(0));
    CHECK_FALSE(world.ledger.is_known(1001));
}

TEST_CASE("what proves nothing clears no count and lifts no block") {
    World world("sip stream tcp * * 2 10m\n");
    Report report = report_of("192.0.2.1", Action::abusive);
    report.local.port = 5060;
    world.report(report);
    CHECK(world.ledger.blocked() == 1);
    report.action = Action::ok;
    report.uid = report.maker = 1000;
    report.by_socket = true;
    world.report(report);
    CHECK(world.ledger.blocked() == 1);
    CHECK(world.ledger.counters().lifted == 0);
    world.ledger.replace(rules("sip stream tcp * * 2 10m\n[trusted]\nsip stream tcp 1000\n"));
    world.report(report); // could have said so without a descriptor
    CHECK(world.ledger.counters().lifted == 1);
}

TEST_CASE("no rule, forgeable addresses, spoofable=count") {
    World world("ssh stream tcp * * 3 10m\n"
                "domain dgram udp * * 2 10m\n"
                "ntp dgram udp * * 2 10m spoofable=count\n");
    Report report = report_of("192.0.2.1");
    report.local.port = 23;
    world.report(report);
    CHECK(world.ledger.counters().unmatched == 1);
    CHECK(world.ledger.table().size() == 0);
    report.type = SOCK_DGRAM;
    report.protocol = IPPROTO_UDP;
    report.local.port = 53;
    report.forgeable = true;
    for (int i = 0; i < 5; ++i) {
        world.report(report);
    }
    CHECK(world.ledger.counters().forgeable == 5);
    CHECK(world.ledger.table().size() == 0);
    report.local.port = 123;
    world.report(report);
    world.report(report);
    CHECK(world.ledger.blocked() == 1);
    // A forged success must not lift what stands.
    report.local.port = 53;
    report.forgeable = false;
    world.report(report);
    world.report(report);
    CHECK(world.ledger.blocked() == 2);
    report.action = Action::ok;
    report.forgeable = true;
    world.report(report);
    CHECK(world.ledger.blocked() == 2);
}

TEST_CASE("trusted reporters: the service comes from the line, root may always") {
    World world("[local]\nssh stream tcp * * 3 10m\n"
                "[trusted]\n192.0.2.5:imap stream tcp 107\n");
    Endpoint local;
    int type = 0;
    int protocol = 0;
    CHECK(world.ledger.service_of({107}, local, type, protocol));
    CHECK(local == Endpoint{address("192.0.2.5"), 143});
    CHECK(type == SOCK_STREAM);
    CHECK(protocol == IPPROTO_TCP);
    CHECK_FALSE(world.ledger.service_of({108}, local, type, protocol));
    CHECK(world.ledger.service_of({0}, local, type, protocol));
}

TEST_CASE("trusted reporters: a line for a cgroup is for who is in it, and for its service") {
    World world("[local]\n2222 stream tcp * * 1 10m\n2223 stream tcp * * 1 10m\n"
                "[trusted]\n2222 stream tcp * cgroup=/mail.slice\n");
    struct Process final : ReportingProcess {
        bool inside(const std::string& cgroup) const override { return cgroup == its; }
        std::string its = "/mail.slice";
    } process;
    Endpoint local;
    int type = 0;
    int protocol = 0;
    CHECK(world.ledger.service_of({107, &process}, local, type, protocol));
    CHECK(local.port == 2222);
    const Endpoint there{address("172.17.0.2"), 2222};
    const Endpoint other{address("172.17.0.2"), 2223};
    CHECK(world.ledger.vouches({107, &process}, there, SOCK_STREAM, IPPROTO_TCP));
    CHECK_FALSE(world.ledger.vouches({107, &process}, other, SOCK_STREAM, IPPROTO_TCP));
    CHECK_FALSE(world.ledger.vouches({107, &process}, there, SOCK_DGRAM, IPPROTO_UDP));
    CHECK_FALSE(world.ledger.vouches({107}, there, SOCK_STREAM, IPPROTO_TCP));
    CHECK_FALSE(world.ledger.is_known(107));
    process.its = "/web.slice";
    CHECK_FALSE(world.ledger.vouches({107, &process}, there, SOCK_STREAM, IPPROTO_TCP));
    CHECK_FALSE(world.ledger.service_of({107, &process}, local, type, protocol));

    // The line proves no knock for who has its user and not its cgroup.
    Report report = report_of("192.0.2.1");
    report.local.port = 2222;
    report.by_socket = true;
    report.uid = report.maker = 107;
    world.report(report);
    CHECK(world.ledger.counters().unproved == 1);
    report.vouched = true;
    world.report(report);
    CHECK(world.ledger.blocked() == 1);
}

TEST_CASE("grow: enough blocked addresses inside block the whole; leaving and coming count") {
    World world("ssh stream tcp * * 1 10m grow=24:3\n");
    world.report("192.0.2.1");
    world.report("192.0.2.2");
    world.report("192.0.2.2"); // extends, joins no second time
    CHECK(world.row("192.0.2.0/24").count == 2);
    CHECK(world.row("192.0.2.0/24").state == State::counting);
    SUBCASE("the third blocks the prefix") {
        world.report("192.0.2.77");
        CHECK(world.row("192.0.2.0/24").state == State::blocked);
        CHECK(world.ledger.blocked() == 4);
        world.obey();
        world.pass(600);
        world.obey();
        CHECK(world.ledger.table().size() == 0);
    }
    SUBCASE("one that is lifted leaves") {
        world.report("192.0.2.1", Action::ok);
        CHECK(world.row("192.0.2.0/24").count == 1);
        world.report("192.0.2.3");
        CHECK(world.row("192.0.2.0/24").state == State::counting);
        CHECK(world.row("192.0.2.0/24").count == 2);
    }
    SUBCASE("one that is unblocked by hand leaves, the last takes the group with it") {
        CHECK(world.ledger.unblock({prefix("192.0.2.1"), {}, {}, {}}) == 1);
        CHECK(world.row("192.0.2.0/24").count == 1);
        CHECK(world.ledger.unblock({prefix("192.0.2.2"), {}, {}, {}}) == 1);
        CHECK(world.find("192.0.2.0/24") == no_row);
    }
    SUBCASE("another network is another group") {
        world.report("192.0.3.1");
        CHECK(world.row("192.0.3.0/24").count == 1);
        CHECK(world.row("192.0.2.0/24").count == 2);
    }
    SUBCASE("over a restart") {
        Disk disk;
        world.obey();
        disk.save(world);
        World other("ssh stream tcp * * 1 10m grow=24:3\n");
        other.clock = world.clock;
        disk.load(other);
        CHECK(other.row("192.0.2.0/24").count == 2);
        other.report("192.0.2.1", Action::ok);
        CHECK(other.row("192.0.2.0/24").count == 1);
        other.report("192.0.2.4");
        other.report("192.0.2.5");
        CHECK(other.row("192.0.2.0/24").state == State::blocked);
        other.check();
    }
    world.check();
}

TEST_CASE("by hand: blocks, unblocks, filters; success and failures leave it alone") {
    World world;
    const auto row = world.ledger.block({"mine", prefix("192.0.2.0/24"), 6, 80, 60, "reasons"});
    REQUIRE(row);
    CHECK(row->name == "mine");
    CHECK(row->reason == "reasons");
    CHECK(row->state == State::blocked);
    CHECK((row->flags & store::by_hand) != 0);
    CHECK(row->until == static_cast<std::uint32_t>(world.clock.wall() + 60));
    REQUIRE(world.ledger.block({"", prefix("192.0.2.0/24"), 0, 0, forever, ""}));
    REQUIRE(world.ledger.block({"", prefix("192.0.2.1"), 6, 22, 60, ""}));
    world.report("192.0.2.1", Action::ok);
    CHECK(world.row("192.0.2.1").state == State::blocked);
    world.report("192.0.2.1", Action::fail, 9);
    CHECK(unpack(world.row("192.0.2.1").until) == world.clock.now() + 60);
    CHECK(world.ledger.blocked() == 3);
    const Prefix wide = prefix("192.0.2.0/24");
    CHECK(world.ledger.unblock({wide, "other", {}, {}}) == 0);
    CHECK(world.ledger.unblock({wide, {}, 17, {}}) == 0);
    CHECK(world.ledger.unblock({wide, {}, {}, 81}) == 0);
    CHECK(world.ledger.unblock({prefix("192.0.2.0/25"), {}, {}, {}}) == 0);
    CHECK(world.ledger.unblock({wide, "mine", 6, 80}) == 1);
    CHECK(world.ledger.unblock({wide, "mine", 6, 80}) == 0); // releasing already
    CHECK(world.ledger.unblock({wide, {}, {}, {}}) == 1);
    CHECK(world.ledger.blocked() == 1);
    CHECK(world.ledger.releasing() == 2);
    world.check();
    // Blocked again before the firewall let go: the block stands.
    REQUIRE(world.ledger.block({"mine", wide, 6, 80, 60, ""}));
    CHECK(world.ledger.releasing() == 1);
    world.obey();
    CHECK(world.ledger.blocked() == 2);
    CHECK(world.ledger.releasing() == 0);
    world.check();
}

TEST_CASE("by hand over an automatic block, and after it was released a fresh start") {
    World world;
    world.report("192.0.2.1", Action::fail, 3);
    REQUIRE(world.ledger.block({"", prefix("192.0.2.1"), 6, 22, forever, "kept"}));
    CHECK(world.ledger.blocked() == 1);
    world.pass(100'000);
    CHECK(world.ledger.blocked() == 1);
    CHECK(world.ledger.unblock({prefix("192.0.2.1"), {}, {}, {}}) == 1);
    world.obey();
    CHECK(world.find("192.0.2.1") == no_row);
    world.report("192.0.2.1", Action::fail, 3);
    CHECK((world.row("192.0.2.1").flags & store::by_hand) == 0);
    world.report("192.0.2.1", Action::ok);
    CHECK(world.ledger.releasing() == 1);
}

TEST_CASE("monitor: judged and recorded, never handed to the firewall") {
    World world(plain, true);
    world.report("192.0.2.1", Action::fail, 3);
    CHECK(world.ledger.blocked() == 1);
    CHECK(world.ledger.not_in_force() == 0);
    CHECK(world.feed.empty());
    CHECK_FALSE(world.ledger.wanted(world.row("192.0.2.1").key));
    CHECK((world.rows().at(0).flags & store::monitor) != 0);
    world.pass(600);
    CHECK(world.ledger.table().size() == 0);
    world.report("192.0.2.1", Action::fail, 3);
    world.report("192.0.2.1", Action::ok);
    CHECK(world.ledger.table().size() == 0);
    CHECK_FALSE(world.ledger.next_kill());
}

TEST_CASE("new rules apply to what is counted; old rows survive rules that are gone") {
    World world("ssh stream tcp * * 5 10m kill\n");
    world.report("192.0.2.1", Action::fail, 4);
    world.report("192.0.2.2", Action::abusive);
    world.ledger.replace(rules("ssh stream tcp * * 3 1h\n"));
    world.report("192.0.2.1");
    CHECK(world.row("192.0.2.1").state == State::blocked);
    CHECK(world.row("192.0.2.1").until == world.clock.now() + 3600);
    world.report("192.0.2.2");
    CHECK(world.row("192.0.2.2").until == world.clock.now() + 3600);
    for (int i = 0; i < 50; ++i) { // names and reasons of rules that are freed
        world.ledger.replace(rules("smtp stream tcp * other 3 1h\n"));
        world.report("192.0.2.1");
        world.pass(30);
    }
    CHECK(world.ledger.counters().unmatched == 50);
    for (const auto& row : world.rows()) {
        CHECK(row.name == "egress");
        CHECK(row.reason.find("failures") != std::string::npos);
    }
    world.check();
}

TEST_CASE("kill: asked for at a block by a rule that says so, once, bounded") {
    World world("ssh stream tcp * * 1 10m kill\n");
    world.report("192.0.2.1");
    world.report("192.0.2.1");
    const auto kill = world.ledger.next_kill();
    REQUIRE(kill);
    CHECK(kill->prefix() == prefix("192.0.2.1"));
    CHECK_FALSE(world.ledger.next_kill());
    for (int i = 0; i < 20'000; ++i) {
        world.report("10." + std::to_string(i / 200) + "." + std::to_string(i % 200) + ".1");
    }
    std::size_t kills = 0;
    while (world.ledger.next_kill()) {
        ++kills;
    }
    CHECK(kills == 4096);
}

TEST_CASE("grow: one whose time ends leaves, one whose block was extended stays") {
    World world("ssh stream tcp * * 1 10m grow=24:3\n");
    world.report("192.0.2.1");
    world.report("192.0.2.2");
    world.pass(599);
    world.report("192.0.2.2");
    world.pass(1);
    world.report("192.0.2.3");
    world.report("192.0.2.4");
    REQUIRE(world.find("192.0.2.0/24") != no_row);
    CHECK(world.ledger.table()[world.find("192.0.2.0/24")].state == State::blocked);
}

TEST_CASE("ports=all: each port has its count, and a block closes them all") {
    constexpr auto text = "ssh stream tcp * * 3 10m ports=all,escalate=2,kill\n"
                          "smtp stream tcp * * 3 10m ports=all,escalate=2,window=1h\n";
    World world(text);
    const auto at = [&](std::uint16_t port, Action action = Action::fail) {
        Report report = report_of("192.0.2.1", action);
        report.local.port = port;
        world.report(report);
        world.check();
    };
    const auto blocked = [&] { return world.find("192.0.2.1", "egress", 0); };
    const auto& table = world.ledger.table();
    for (int i = 0; i < 2; ++i) { // two failures at each are three at none
        at(22);
        at(25);
    }
    CHECK(world.ledger.blocked() == 0);
    at(22);
    REQUIRE(blocked() != no_row);
    CHECK(table[blocked()].state == State::blocked);
    CHECK(table[blocked()].key.protocol == 0);
    CHECK(table[blocked()].count == 3);
    CHECK(world.find("192.0.2.1", "egress", 22) == no_row); // its count has become the block
    CHECK(table[world.find("192.0.2.1", "egress", 25)].count == 2);
    CHECK(world.obey() == std::vector<std::string>{"add 192.0.2.1"});
    CHECK(world.ledger.next_kill()->port == 0);

    world.clock.pass(60);
    at(25); // a failure at any of them extends the block and is no second count
    CHECK(table[blocked()].until == pack(world.clock.now() + 600));
    CHECK(table[world.find("192.0.2.1", "egress", 25)].count == 2);
    at(22, Action::ok);
    CHECK(world.ledger.blocked() == 0);
    CHECK(world.obey() == std::vector<std::string>{"rem 192.0.2.1"});

    at(25); // the second block is twice as long, through whatever port
    REQUIRE(table[blocked()].state == State::blocked);
    CHECK(table[blocked()].until == pack(world.clock.now() + 1200));
    world.obey();
    world.pass(1200);
    CHECK(world.obey() == std::vector<std::string>{"rem 192.0.2.1"});
    CHECK(world.ledger.blocked() == 0);
}

TEST_CASE("ports=all: a success clears the port's count too; a full table is no obstacle") {
    World world("ssh stream tcp * * 3 10m ports=all\n", false, 2);
    world.report("192.0.2.1", Action::fail, 2);
    world.report("192.0.2.1", Action::ok);
    CHECK(world.ledger.table().size() == 0);
    world.report("192.0.2.1", Action::fail, 3);
    world.report("192.0.2.2", Action::fail, 3);
    CHECK(world.ledger.blocked() == 2);
    CHECK(world.ledger.table().size() == 2);
    world.report("192.0.2.1", Action::ok);
    CHECK(world.ledger.blocked() == 1);
    world.check();
}
