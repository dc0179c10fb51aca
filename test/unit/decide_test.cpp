// The decision function: fixtures for every branch, then properties over random histories.
#include "daemon/count/decide.h"

#include <algorithm>
#include <random>

#include "core_test.h"

using namespace egress;
using store::State;

namespace {

constexpr Moment now = 100'000;
constexpr auto unlimited = [](policy::EffectiveRule& rule) { rule.limited = false; };
constexpr auto plain = [](policy::EffectiveRule&) {};
constexpr auto doubling = [](policy::EffectiveRule& rule) {
    rule.escalate_percent = 200;
    rule.max = 1000;
};

policy::EffectiveRule rule_of(std::uint32_t nfail, Seconds disable) {
    policy::EffectiveRule rule;
    rule.nfail = nfail;
    rule.disable = disable;
    return rule;
}

Count counting(std::uint32_t count, Moment last = now - 10) {
    Count before;
    before.count = count;
    before.last = last;
    before.until = last + 600;
    return before;
}

Count blocked(std::uint32_t count, Moment until, bool by_hand = false) {
    return {State::blocked, by_hand, count, 1, now - 10, now - 10, until};
}

Count releasing() {
    return {State::releasing, false, 0, 1, now - 10, 0, never};
}

struct Fixture {
    const char* description;
    policy::EffectiveRule rule;
    void (*tweak)(policy::EffectiveRule&) = plain;
    Count before = {};
    Action action;
    State state;
    std::uint32_t count;
    Moment until;
    Effect effect;
};

} // namespace

TEST_CASE("decide: fixtures") {
    const Fixture fixtures[] = {
        {.description = "the first of three",
         .rule = rule_of(3, 600),
         .action = Action::fail,
         .state = State::counting,
         .count = 1,
         .until = now + 600,
         .effect = Effect::none},
        {.description = "the last of three",
         .rule = rule_of(3, 600),
         .before = counting(2),
         .action = Action::fail,
         .state = State::blocked,
         .count = 3,
         .until = now + 600,
         .effect = Effect::block},
        {.description = "nfail 1 blocks at once",
         .rule = rule_of(1, 60),
         .action = Action::fail,
         .state = State::blocked,
         .count = 1,
         .until = now + 60,
         .effect = Effect::block},
        {.description = "a bad user counts one",
         .rule = rule_of(3, 600),
         .before = counting(1),
         .action = Action::bad_user,
         .state = State::counting,
         .count = 2,
         .until = now + 600,
         .effect = Effect::none},
        {.description = "abuse blocks at once",
         .rule = rule_of(3, 600),
         .action = Action::abusive,
         .state = State::blocked,
         .count = 3,
         .until = now + 600,
         .effect = Effect::block},
        {.description = "abuse on top of two",
         .rule = rule_of(3, 600),
         .before = counting(2),
         .action = Action::abusive,
         .state = State::blocked,
         .count = 3,
         .until = now + 600,
         .effect = Effect::block},
        {.description = "nfail * never blocks",
         .rule = rule_of(0, 600),
         .tweak = unlimited,
         .before = counting(4'000'000),
         .action = Action::fail,
         .state = State::counting,
         .count = 4'000'001,
         .until = now + 600,
         .effect = Effect::none},
        {.description = "nfail * : abuse counts one",
         .rule = rule_of(0, 600),
         .tweak = unlimited,
         .before = counting(7),
         .action = Action::abusive,
         .state = State::counting,
         .count = 8,
         .until = now + 600,
         .effect = Effect::none},
        {.description = "disable * is for ever",
         .rule = rule_of(1, forever),
         .action = Action::fail,
         .state = State::blocked,
         .count = 1,
         .until = never,
         .effect = Effect::block},
        {.description = "disable * : a count is kept for ever",
         .rule = rule_of(3, forever),
         .action = Action::fail,
         .state = State::counting,
         .count = 1,
         .until = never,
         .effect = Effect::none},
        {.description = "the rule got stricter: what is counted counts",
         .rule = rule_of(2, 600),
         .before = counting(5),
         .action = Action::fail,
         .state = State::blocked,
         .count = 6,
         .until = now + 600,
         .effect = Effect::block},
        {.description = "the rule got laxer",
         .rule = rule_of(10, 600),
         .before = counting(2),
         .action = Action::fail,
         .state = State::counting,
         .count = 3,
         .until = now + 600,
         .effect = Effect::none},
        {.description = "success forgets a count",
         .rule = rule_of(3, 600),
         .before = counting(2),
         .action = Action::ok,
         .state = State::counting,
         .count = 0,
         .until = 0,
         .effect = Effect::forget},
        {.description = "success lifts a block",
         .rule = rule_of(3, 600),
         .before = blocked(3, now + 500),
         .action = Action::ok,
         .state = State::releasing,
         .count = 0,
         .until = never,
         .effect = Effect::lift},
        {.description = "success leaves a permanent block",
         .rule = rule_of(3, forever),
         .before = blocked(3, never),
         .action = Action::ok,
         .state = State::blocked,
         .count = 3,
         .until = never,
         .effect = Effect::none},
        {.description = "success leaves a block by hand",
         .rule = rule_of(3, 600),
         .before = blocked(3, now + 500, true),
         .action = Action::ok,
         .state = State::blocked,
         .count = 3,
         .until = now + 500,
         .effect = Effect::none},
        {.description = "success while releasing changes nothing",
         .rule = rule_of(3, 600),
         .before = releasing(),
         .action = Action::ok,
         .state = State::releasing,
         .count = 0,
         .until = never,
         .effect = Effect::none},
        {.description = "a failure while blocked extends",
         .rule = rule_of(3, 600),
         .before = blocked(3, now + 500),
         .action = Action::fail,
         .state = State::blocked,
         .count = 4,
         .until = now + 600,
         .effect = Effect::extend},
        {.description = "a shorter rule never cuts a standing block",
         .rule = rule_of(3, 10),
         .before = blocked(3, now + 500),
         .action = Action::fail,
         .state = State::blocked,
         .count = 4,
         .until = now + 500,
         .effect = Effect::none},
        {.description = "a block by hand is not extended",
         .rule = rule_of(3, 600),
         .before = blocked(3, now + 5, true),
         .action = Action::fail,
         .state = State::blocked,
         .count = 4,
         .until = now + 5,
         .effect = Effect::none},
        {.description = "a permanent block stays permanent",
         .rule = rule_of(3, 600),
         .before = blocked(3, never),
         .action = Action::fail,
         .state = State::blocked,
         .count = 4,
         .until = never,
         .effect = Effect::none},
        {.description = "a failure while releasing is counted",
         .rule = rule_of(3, 600),
         .before = releasing(),
         .action = Action::fail,
         .state = State::releasing,
         .count = 1,
         .until = never,
         .effect = Effect::none},
        {.description = "abuse while releasing blocks again",
         .rule = rule_of(3, 600),
         .before = releasing(),
         .action = Action::abusive,
         .state = State::blocked,
         .count = 3,
         .until = now + 600,
         .effect = Effect::block},
        {.description = "counts saturate",
         .rule = rule_of(0, 600),
         .tweak = unlimited,
         .before = counting(0xffffffff),
         .action = Action::fail,
         .state = State::counting,
         .count = 0xffffffff,
         .until = now + 600,
         .effect = Effect::none},
    };
    for (const auto& one : fixtures) {
        INFO(one.description);
        policy::EffectiveRule rule = one.rule;
        one.tweak(rule);
        Past past;
        const RowChange outcome = decide(rule, one.before, past, one.action, now);
        CHECK(outcome.effect == one.effect);
        CHECK(outcome.next.count == one.count);
        if (one.effect != Effect::forget) {
            CHECK(outcome.next.state == one.state);
            CHECK(outcome.next.until == one.until);
            CHECK(outcome.next.by_hand == one.before.by_hand);
        }
        if (one.effect == Effect::block) {
            CHECK(outcome.next.since == now);
        }
    }
}

TEST_CASE("escalation multiplies at each repeat, up to max, and is remembered over a success") {
    policy::EffectiveRule rule = rule_of(1, 60);
    doubling(rule);
    Past past;
    Count row;
    Moment time = now;
    for (const Seconds expected : {60, 120, 240, 480, 960, 1000, 1000}) {
        const RowChange block = decide(rule, row, past, Action::fail, time);
        REQUIRE(block.effect == Effect::block);
        CHECK(block.next.until == time + expected);
        time = block.next.until;
        const RowChange lifted = expire(block.next);
        REQUIRE(lifted.effect == Effect::lift);
        const RowChange gone = released(lifted.next, time);
        CHECK(gone.effect == Effect::none); // strikes are kept
        CHECK(gone.next.until == time + 24 * 60 * 60);
        row = gone.next;
        time += 5;
    }
    const RowChange good = decide(rule, row, past, Action::ok, time);
    CHECK(good.effect == Effect::none);
    CHECK(good.next.strikes == 7);
}

TEST_CASE("block_time: no overflow, max never shortens disable, escalate 1 is flat") {
    policy::EffectiveRule rule = rule_of(1, 3600);
    CHECK(block_time(rule, 65535) == 3600);
    rule.escalate_percent = 100'000;
    CHECK(block_time(rule, 65535) > 3600);
    CHECK(after(now, block_time(rule, 65535)) > now);
    rule.max = 60; // below disable
    CHECK(block_time(rule, 1) == 3600);
    CHECK(block_time(rule, 9) == 3600);
    rule.max = 7200;
    CHECK(block_time(rule, 2) == 7200);
    rule.disable = forever;
    CHECK(block_time(rule, 2) == forever);
    rule = rule_of(1, 100);
    rule.escalate_percent = 150;
    CHECK(block_time(rule, 2) == 150);
    CHECK(block_time(rule, 3) == 225);
}

TEST_CASE("without escalation nothing is left after a block") {
    Past past;
    const RowChange block = decide(rule_of(1, 60), {}, past, Action::fail, now);
    CHECK(block.next.strikes == 0);
    CHECK(released(expire(block.next).next, now + 60).effect == Effect::forget);
    CHECK(expire(counting(2)).effect == Effect::forget);
}

TEST_CASE("window: failures older than it no longer count") {
    policy::EffectiveRule rule = rule_of(3, 600);
    rule.window = 60;
    Past past;
    Count row;
    const auto fail_at = [&](Moment time) {
        const RowChange outcome = decide(rule, row, past, Action::fail, time);
        row = outcome.next;
        return outcome;
    };
    CHECK(fail_at(now).next.count == 1);
    CHECK(fail_at(now + 59).next.count == 2);
    CHECK(fail_at(now + 60).next.count == 2); // the first is 60 s old: gone
    CHECK(fail_at(now + 200).next.count == 1);
    CHECK(fail_at(now + 200).next.count == 2);
    CHECK(fail_at(now + 201).effect == Effect::block);
}

TEST_CASE("window: a count from before the rule had one is taken over, a success clears it") {
    policy::EffectiveRule rule = rule_of(5, 600);
    rule.window = 60;
    Past past;
    const RowChange taken = decide(rule, counting(3, now - 30), past, Action::fail, now);
    CHECK(taken.next.count == 4);
    const RowChange late = decide(rule, taken.next, past, Action::fail, now + 31);
    CHECK(late.next.count == 2); // the three went with their time
    CHECK(decide(rule, late.next, past, Action::ok, now + 32).effect == Effect::forget);
    CHECK(past.empty());
}

TEST_CASE("window: abuse blocks at once whatever nfail is") {
    for (const std::uint32_t nfail : {1u, 3u, 65535u, 65536u, 4'000'000'000u}) {
        policy::EffectiveRule rule = rule_of(nfail, 600);
        rule.window = 60;
        Past past;
        const RowChange outcome = decide(rule, {}, past, Action::abusive, now);
        CHECK(outcome.effect == Effect::block);
        CHECK(outcome.next.count == nfail);
    }
}

TEST_CASE("window: a failure while blocked extends, however old the others are") {
    policy::EffectiveRule rule = rule_of(3, 600);
    rule.window = 60;
    Past past;
    Count row;
    for (int i = 0; i < 3; ++i) {
        row = decide(rule, row, past, Action::fail, now).next;
    }
    REQUIRE(row.state == State::blocked);
    const RowChange outcome = decide(rule, row, past, Action::fail, now + 300);
    CHECK(outcome.effect == Effect::extend);
    CHECK(outcome.next.until == now + 900);
}

TEST_CASE("window: exact up to max_history times, beyond it never too few and never too late") {
    std::mt19937 random(3);
    for (int round = 0; round < 400; ++round) {
        policy::EffectiveRule rule = rule_of(0, 600);
        rule.limited = false;
        rule.window = 1 + static_cast<Seconds>(random() % 100);
        std::vector<Moment> all; // the plain truth
        Past past;
        Count row;
        Moment time = now;
        for (int i = 0; i < 200; ++i) {
            time += static_cast<Moment>(random() % 12);
            row = decide(rule, row, past, Action::fail, time).next;
            all.push_back(time);
            std::erase_if(all, [&](Moment one) { return one + rule.window <= time; });
            std::vector<Moment> times = all;
            times.erase(std::unique(times.begin(), times.end()), times.end());
            REQUIRE(past.size() <= store::max_history);
            REQUIRE(row.count >= all.size());
            if (times.size() < store::max_history && past.size() < store::max_history) {
                REQUIRE(row.count == all.size());
            }
        }
    }
}

TEST_CASE("properties over random histories and rules that change between reports") {
    std::mt19937 random(5);
    const auto pick = [&](std::uint32_t below) {
        return static_cast<std::uint32_t>(random() % below);
    };
    for (int round = 0; round < 3000; ++round) {
        Past past;
        Count row;
        Moment time = now;
        for (int i = 0; i < 60; ++i) {
            policy::EffectiveRule rule = rule_of(1 + pick(6), 1 + pick(1000));
            rule.limited = pick(8) != 0;
            rule.disable = pick(12) == 0 ? forever : rule.disable;
            rule.escalate_percent = 100 + pick(3) * 100;
            rule.window = pick(3) == 0 ? 1 + pick(200) : forever;
            time += pick(120);
            if (row.until <= time) {
                const RowChange outcome = expire(row);
                row = outcome.effect == Effect::forget ? Count{} : outcome.next;
                past.clear();
            }
            if (row.state == State::releasing && pick(2) == 0) {
                const RowChange outcome = released(row, time);
                row = outcome.effect == Effect::forget ? Count{} : outcome.next;
            }
            const auto action = static_cast<Action>(pick(4));
            const RowChange outcome = decide(rule, row, past, action, time);
            const Count& next = outcome.next;
            if (row.state == State::blocked && next.state == State::blocked) {
                REQUIRE(next.until >= row.until);
                REQUIRE(next.since == row.since);
                REQUIRE(outcome.effect != Effect::block);
            }
            if (row.state != State::blocked && next.state == State::blocked) {
                REQUIRE(outcome.effect == Effect::block);
                REQUIRE(rule.limited);
                REQUIRE(next.count >= rule.nfail);
                REQUIRE(next.until > time);
            }
            if (row.state == State::blocked && next.state != State::blocked) {
                REQUIRE(action == Action::ok);
                REQUIRE(outcome.effect == Effect::lift);
                REQUIRE(row.until != never);
            }
            if (action != Action::ok && rule.limited && next.state != State::blocked) {
                REQUIRE(next.count < rule.nfail);
            }
            if (action == Action::ok && next.state != State::blocked) {
                REQUIRE(next.count == 0);
            }
            if (action != Action::ok && rule.window == forever && row.count < 0xffffff) {
                REQUIRE(next.count > row.count);
            }
            row = outcome.effect == Effect::forget ? Count{} : next;
            if (outcome.effect == Effect::forget) {
                past.clear();
            }
        }
    }
}
