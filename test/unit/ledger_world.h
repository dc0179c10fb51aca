// A ledger with a clock moved by hand, a firewall that obeys, and a disk.
#pragma once

#include <algorithm>
#include <tuple>

#include "core_test.h"
#include "daemon/base/log.h"
#include "daemon/count/ledger.h"
#include "daemon/store/env.h"

namespace egress::test {

using store::State;

inline constexpr const char* plain = "ssh stream tcp * * 3 10m\n";

/// A ledger, its clock and its rules.
struct World {
    explicit World(std::string_view text = plain, bool monitor = false, std::size_t most = 10'000)
        : ledger(clock, interfaces, {monitor, "egress", 0}, with_rows(rules(text), most)) {
        log::open(log::Target::standard_error, static_cast<log::Level>(2)); // quiet
    }
    static policy::Policy with_rows(policy::Policy policy, std::size_t most) {
        policy.settings.rows = most;
        return policy;
    }

    void report(std::string_view remote, Action action = Action::fail, int times = 1) {
        for (int i = 0; i < times; ++i) {
            report(report_of(remote, action));
        }
    }
    void report(const Report& report) { ledger.report({&report, 1}); }
    RowId find(std::string_view text, std::string_view name = "egress", std::uint16_t port = 22) {
        const Prefix wanted = prefix(text);
        for (RowId id = 0; id < ledger.table().rows_end(); ++id) {
            const TableRow& row = ledger.table()[id];
            if (row.used && row.key.prefix() == wanted && row.key.port == port &&
                ledger.name_text(row.key.name) == name) {
                return id;
            }
        }
        return no_row;
    }
    const TableRow& row(std::string_view text) {
        const RowId id = find(text);
        INFO(std::string(text));
        REQUIRE(id != no_row);
        return ledger.table()[id];
    }
    /// What the firewall would do: takes every touched key and confirms it.
    std::vector<std::string> obey() {
        std::vector<std::string> said;
        while (const auto key = feed.next()) {
            const bool add = ledger.wanted(*key).has_value();
            said.push_back((add ? "add " : "rem ") + key->prefix().text());
            ledger.confirm(*key, add, {});
        }
        return said;
    }
    void pass(Seconds seconds) {
        clock.pass(seconds);
        while (ledger.expire(7)) {
        }
    }
    std::vector<store::Row> rows() const {
        std::vector<store::Row> out;
        for (RowId id = 0; id < ledger.table().rows_end(); ++id) {
            if (ledger.table()[id].used) {
                ledger.snapshot(id, out.emplace_back());
            }
        }
        return out;
    }
    /// The counts that status shows agree with the rows.
    void check() {
        std::size_t blocked = 0;
        std::size_t releasing = 0;
        std::size_t in_force = 0;
        std::size_t by_service[2] = {0, 0};
        for (const auto& service : ledger.services().busiest(Services::most + 1)) {
            by_service[0] += service.blocked;
            by_service[1] += service.counting + service.blocked + service.releasing;
        }
        CHECK(by_service[1] == rows().size());
        for (const auto& row : rows()) {
            blocked += row.state == State::blocked;
            releasing += row.state == State::releasing;
            in_force += (row.flags & store::in_force) != 0;
            CHECK((row.state == State::blocked || (row.flags & store::in_force) == 0));
        }
        CHECK(ledger.blocked() == blocked);
        CHECK(by_service[0] == blocked);
        CHECK(ledger.releasing() == releasing);
        if (!ledger.monitor()) {
            CHECK(ledger.not_in_force() == blocked - in_force);
        }
    }

    FakeClock clock;
    Interfaces interfaces;
    Ledger ledger;
    BlockFeed& feed{ledger.follow_blocks()};
};

/// Everything that changed goes through a real database.
class Disk {
  public:
    void save(World& world) {
        auto env = store::Env::open(folder_ / "db", store::Env::Mode::read_write);
        REQUIRE(env);
        auto opened = store::Store::start(std::move(*env));
        REQUIRE(opened);
        store::Batch batch;
        while (world.ledger.changed()) {
            world.ledger.collect(batch, 50);
            (*opened)->submit(batch);
            REQUIRE((*opened)->wait().durable);
        }
        CHECK(world.ledger.collected() == world.ledger.change_number());
    }
    void load(World& world) {
        world.ledger.set_stored_base(world.clock.at_boot()); // the test may have set the clock
        auto env = store::Env::open(folder_ / "db", store::Env::Mode::read_write);
        REQUIRE(env);
        world.ledger.expect(env->rows());
        REQUIRE(env->each([&](store::Row&& row) {
            world.ledger.load(row, world.clock.now());
            return true;
        }));
    }

  private:
    Folder folder_;
};

inline std::vector<store::Row> sorted(std::vector<store::Row> rows) {
    std::ranges::sort(rows, [](const store::Row& a, const store::Row& b) {
        return std::tie(a.name, a.address, a.protocol, a.port) <
               std::tie(b.name, b.address, b.protocol, b.port);
    });
    return rows;
}

} // namespace egress::test
