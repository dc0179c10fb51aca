// What lists of blocks are read and applied with: arrays by element, tasks by turn, services by
// key.
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "daemon/base/json_array.h"
#include "daemon/base/words.h"
#include "daemon/control/tasks.h"
#include "daemon/count/services.h"

using namespace egress;

namespace {

/// The elements, each as text, and the failure that ended them.
std::vector<std::string> elements(const std::string& text) {
    JsonArray array(text);
    std::vector<std::string> out;
    while (true) {
        const auto next = array.next();
        if (!next) {
            out.push_back(fmt::format("{}: {}", array.number(), next.error().text));
            return out;
        }
        if (!*next) {
            return out;
        }
        out.push_back((*next)->dump());
    }
}

using Texts = std::vector<std::string>;

} // namespace

TEST_CASE("json array: each element, and what is wrong with the rest") {
    CHECK(elements("[]") == Texts{});
    CHECK(elements(" [ 1 , {\"a\":[1,{\"b\":\"],}\\\"\"}]} ,\"x\\\\\" ]\n") ==
          Texts{"1", "{\"a\":[1,{\"b\":\"],}\\\"\"}]}", "\"x\\\\\""});
    CHECK(elements("{}") == Texts{"0: the body is not a JSON array"});
    CHECK(elements("") == Texts{"0: the body is not a JSON array"});
    CHECK(elements("[1] 2") == Texts{"1", "1: text follows the array"});
    for (const auto* const text : {"[1,", "[1,]", "[1", "[1,\"", "[1,\"\\", "[1,}", "[1,{]}"}) {
        CAPTURE(text);
        const auto found = elements(text);
        CHECK(found.size() == 2);
        CHECK(found.back().starts_with("2: "));
    }
    CHECK(elements("[1,[2]") ==
          Texts{"1", "[2]", "3: a comma or the array's end is missing before it"});
    CHECK(elements("[1 2]") == Texts{"1: it is not JSON"});
    CHECK(elements("[" + std::string(200'000, '[') + "]").size() == 1);
    CHECK(JsonArray::begins(" \n[1]"));
    CHECK(!JsonArray::begins("{\"a\":[]}"));
    CHECK(!JsonArray::begins(""));
}

TEST_CASE("tasks: a piece each turn, in turn, and no more of them than there is room for") {
    sd_event* raw = nullptr;
    REQUIRE(sd_event_new(&raw) >= 0);
    const Event event(raw);
    Tasks tasks(event.get());
    std::string order;
    for (std::size_t i = 0; i < Tasks::most; ++i) {
        CHECK(tasks.begin([&order, i, left = 3]() mutable {
            order += static_cast<char>('a' + i);
            return --left > 0;
        }));
    }
    CHECK(!tasks.begin([] { return false; }));
    CHECK(order.empty()); // nothing runs before the next turn
    for (int turn = 0; turn < 100 && order.size() < 3 * Tasks::most; ++turn) {
        sd_event_run(event.get(), 100'000);
    }
    CHECK(order == "abcdefghabcdefghabcdefgh");
    CHECK(tasks.begin([&order] {
        order += '!';
        return false;
    }));
    sd_event_run(event.get(), 1'000'000);
    CHECK(order.ends_with("h!"));
}

TEST_CASE("services: the last place is for all others, and nothing is lost") {
    Services services;
    const auto key = [](std::uint16_t port) {
        return Key::of(0, *Prefix::parse("192.0.2.1"), 6, port);
    };
    for (std::uint16_t port = 1; port <= Services::most + 500; ++port) {
        services.enter(key(port), store::State::blocked);
        services.enter(key(port), store::State::counting);
    }
    std::uint64_t blocked = 0;
    for (const auto& one : services.busiest(Services::most + 1)) {
        blocked += one.blocked;
    }
    CHECK(blocked == Services::most + 500);
    CHECK(services.busiest(3).at(0).others);
    CHECK(services.busiest(3).at(0).blocked == 500);
    for (std::uint16_t port = 1; port <= Services::most + 500; ++port) {
        services.leave(key(port), store::State::blocked);
        services.leave(key(port), store::State::counting);
    }
    CHECK(services.busiest(10).empty());
}

TEST_CASE("words: one thing and several") {
    CHECK(counted(1, "blocks") == "1 block");
    CHECK(counted(1, "egress") == "1 egress");
    CHECK(counted(0, "blocks made") == "0 blocks made");
    CHECK(counted(1, "blocks made") == "1 block made");
    CHECK(counted(1, "prefixes") == "1 prefix");
    CHECK(counted(1, "successes") == "1 success");
    CHECK(counted(2, "at most") == "2 at most");
    CHECK(at_port(0) == "");
    CHECK(at_port(22) == " port 22");
}
