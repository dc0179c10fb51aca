// Addresses, prefixes and the clock's arithmetic.
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <random>
#include <thread>

#include <arpa/inet.h>

#include "core_test.h"
#include "daemon/base/address.h"

using namespace egress;
using namespace egress::test;

TEST_CASE("an IPv4 address and its IPv4-mapped form are one address") {
    const Address plain = address("192.0.2.1");
    const Address mapped = address("::ffff:192.0.2.1");
    CHECK(plain == mapped);
    CHECK(mapped.is_v4());
    CHECK(mapped.family() == AF_INET);
    CHECK(mapped.width() == 32);
    CHECK(mapped.text() == "192.0.2.1");
    CHECK(mapped.bytes().size() == 4);
    CHECK(address("2001:db8::1").width() == 128);
    CHECK(address("2001:DB8:0::1").text() == "2001:db8::1");
    CHECK_FALSE(address("::192.0.2.1").is_v4()); // IPv4-compatible is not mapped
}

TEST_CASE("text that is no numeric address gives nothing") {
    for (const auto* text : {"",
                             " ",
                             "localhost",
                             "1",
                             "1.2.3",
                             "1.2.3.4.5",
                             "1.2.3.256",
                             "01.2.3.4",
                             "0x1.2.3.4",
                             "1.2.3.4 ",
                             " 1.2.3.4",
                             "1.2.3.4/32",
                             "::1%lo",
                             "fe80::1%1",
                             ":::",
                             "1::2::3",
                             "::g",
                             "1:2:3:4:5:6:7:8:9",
                             "::ffff:1.2.3",
                             "[::1]",
                             "12345::",
                             "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb"}) {
        INFO(text);
        CHECK_FALSE(Address::parse(text));
    }
}

TEST_CASE("a NUL inside does not end the text early") {
    CHECK_FALSE(Address::parse(std::string_view("192.0.2.1\0x", 11)));
    CHECK_FALSE(Address::parse(std::string_view("\0", 1)));
}

TEST_CASE("unspecified addresses of both families are known as such") {
    CHECK(address("0.0.0.0").is_unspecified());
    CHECK(address("::").is_unspecified());
    CHECK(address("::ffff:0.0.0.0").is_unspecified());
    CHECK_FALSE(address("0.0.0.1").is_unspecified());
    CHECK_FALSE(address("::1").is_unspecified());
}

TEST_CASE("addresses come from a sockaddr only when it is long enough for its family") {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(22);
    inet_pton(AF_INET, "192.0.2.7", &in.sin_addr);
    const auto* const sa = reinterpret_cast<const sockaddr*>(&in);
    const auto whole = Endpoint::from(sa, sizeof in);
    REQUIRE(whole);
    CHECK(whole->port == 22);
    CHECK(whole->address == address("192.0.2.7"));
    for (socklen_t length = 0; length < sizeof in; ++length) {
        CHECK_FALSE(Endpoint::from(sa, length));
    }
    CHECK_FALSE(Endpoint::from(nullptr, sizeof in));
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    inet_pton(AF_INET6, "::ffff:192.0.2.7", &in6.sin6_addr);
    const auto* const sa6 = reinterpret_cast<const sockaddr*>(&in6);
    CHECK(Address::from(sa6, sizeof in6) == address("192.0.2.7"));
    CHECK_FALSE(Address::from(sa6, sizeof in6 - 1));
    in6.sin6_family = AF_UNIX;
    CHECK_FALSE(Address::from(sa6, sizeof in6));
}

TEST_CASE("raw bytes are an address at 4 and 16 only") {
    const std::array<std::uint8_t, 17> bytes{192, 0, 2, 1};
    for (std::size_t size = 0; size <= bytes.size(); ++size) {
        CHECK(Address::from_bytes(std::span(bytes).first(size)).has_value() ==
              (size == 4 || size == 16));
    }
}

TEST_CASE("prefixes: text to value and back") {
    struct {
        const char* text;
        const char* canonical; // nullptr: an error
    } const fixtures[] = {
        {"192.0.2.1", "192.0.2.1"},
        {"192.0.2.1/32", "192.0.2.1"},
        {"192.0.2.0/24", "192.0.2.0/24"},
        {"0.0.0.0/0", "0.0.0.0/0"},
        {"::/0", "::/0"},
        {"::ffff:192.0.2.0/24", "192.0.2.0/24"},
        {"2001:db8::/32", "2001:db8::/32"},
        {"2001:db8::1/128", "2001:db8::1"},
        {"128.0.0.0/1", "128.0.0.0/1"},
        {"192.0.2.1/24", nullptr}, // host bits
        {"2001:db8::1/64", nullptr},
        {"128.0.0.0/0", nullptr},
        {"192.0.2.0/33", nullptr},
        {"2001:db8::/129", nullptr},
        {"192.0.2.0/", nullptr},
        {"192.0.2.0/-1", nullptr},
        {"0.0.0.0/-0", nullptr},
        {"192.0.2.0/+24", nullptr},
        {"192.0.2.0/24x", nullptr},
        {"192.0.2.0/24/24", nullptr},
        {"192.0.2.0/ 24", nullptr},
        {"192.0.2.0/99999999999999999999", nullptr},
        {"/24", nullptr},
        {"", nullptr},
    };
    for (const auto& [text, canonical] : fixtures) {
        INFO(text);
        const auto parsed = Prefix::parse(text);
        CHECK(parsed.has_value() == (canonical != nullptr));
        if (parsed && canonical != nullptr) {
            CHECK(parsed->text() == canonical);
            CHECK(Prefix::parse(parsed->text()) == parsed);
        }
    }
}

TEST_CASE("a prefix contains its own family only") {
    CHECK(prefix("192.0.2.0/24").contains(address("192.0.2.255")));
    CHECK_FALSE(prefix("192.0.2.0/24").contains(address("192.0.3.0")));
    CHECK(prefix("0.0.0.0/0").contains(address("255.255.255.255")));
    CHECK_FALSE(prefix("0.0.0.0/0").contains(address("2001:db8::1")));
    CHECK_FALSE(prefix("::/0").contains(address("192.0.2.1")));
    CHECK(prefix("::/0").contains(address("ffff::")));
    CHECK(Prefix::around(address("192.0.2.77"), 99) == prefix("192.0.2.77"));
    CHECK(Prefix::around(address("192.0.2.77"), -1) == prefix("0.0.0.0/0"));
}

TEST_CASE("masking agrees with bit arithmetic for random addresses and every length") {
    std::mt19937 random(7);
    for (int round = 0; round < 2000; ++round) {
        std::array<std::uint8_t, 16> bytes;
        for (auto& byte : bytes) {
            byte = static_cast<std::uint8_t>(random());
        }
        const std::size_t size = round % 2 == 0 ? 4 : 16;
        const Address one = *Address::from_bytes(std::span(bytes).first(size));
        const int length = static_cast<int>(random() % (size * 8 + 1));
        const Prefix around = Prefix::around(one, length);
        CHECK(around.length == length);
        CHECK(around.contains(one));
        const auto base = around.base.bytes();
        REQUIRE(base.size() == size);
        for (int bit = 0; bit < static_cast<int>(size) * 8; ++bit) {
            const auto at = static_cast<std::size_t>(bit / 8);
            const int shift = 7 - bit % 8;
            const int expected = bit < length ? bytes[at] >> shift & 1 : 0;
            REQUIRE((base[at] >> shift & 1) == expected);
        }
        // Another bit inside the prefix is another prefix.
        if (length > 0) {
            auto other = bytes;
            const int bit = static_cast<int>(random() % static_cast<unsigned>(length));
            other[static_cast<std::size_t>(bit / 8)] ^= static_cast<std::uint8_t>(0x80 >> bit % 8);
            CHECK_FALSE(around.contains(*Address::from_bytes(std::span(other).first(size))));
        }
    }
}

TEST_CASE("time saturates at never and converts both ways") {
    CHECK(after(0, 5) == 5);
    CHECK(after(10, forever) == never);
    CHECK(after(10, never - 10) == never);
    CHECK(after(10, never - 11) == never - 1);
    FakeClock clock;
    CHECK(clock.to_wall(clock.now()) == clock.wall());
    CHECK(clock.from_wall(clock.to_wall(5)) == 5);
    CHECK(clock.to_wall(never) == never);
    CHECK(clock.from_wall(never) == never);
    SystemClock system;
    CHECK(system.now() > 0);
    CHECK(std::abs(system.wall() - std::time(nullptr)) <= 1);
}

TEST_CASE("a moment is the same second of the day whenever it is asked for") {
    const SystemClock system;
    const Moment moment = system.now();
    const std::int64_t wall = system.to_wall(moment);
    // Over more than a second, so that each clock's second turns over in between.
    for (int i = 0; i < 120; ++i) {
        REQUIRE(system.to_wall(moment) == wall);
        REQUIRE(system.from_wall(wall) == moment);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
}
