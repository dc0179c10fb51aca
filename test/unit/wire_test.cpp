// The record: what is written is read back, and whatever else arrives is refused by its right name.
#include "lib/wire.h"

#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <doctest/doctest.h>

#include "lib/api.h"

using namespace egress;
using wire::Fault;

namespace {

using Bytes = std::vector<std::byte>;

sockaddr_in in4(const char* text, std::uint16_t port) {
    sockaddr_in in{};
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    REQUIRE(inet_pton(AF_INET, text, &in.sin_addr) == 1);
    return in;
}

sockaddr_in6 in6(const char* text, std::uint16_t port, std::uint32_t scope = 0) {
    sockaddr_in6 in{};
    in.sin6_family = AF_INET6;
    in.sin6_port = htons(port);
    in.sin6_scope_id = scope;
    REQUIRE(inet_pton(AF_INET6, text, &in.sin6_addr) == 1);
    return in;
}

Bytes encoded(int action, const void* remote, socklen_t length, std::string_view message) {
    std::array<std::byte, wire::max_record> buffer;
    const auto out =
        wire::encode(buffer, action, static_cast<const sockaddr*>(remote), length, message);
    CHECK((out.empty() || out.data() == buffer.data()));
    return {out.begin(), out.end()};
}

/// A good record with one field of its head changed.
template <typename Change>
Fault fault_of(Change change) {
    const sockaddr_in in = in4("192.0.2.1", 1);
    Bytes bytes = encoded(EGRESS_AUTH_FAIL, &in, sizeof in, "hello");
    wire::Head head;
    std::memcpy(&head, bytes.data(), sizeof head);
    change(head);
    std::memcpy(bytes.data(), &head, sizeof head);
    wire::Record record;
    return wire::decode(bytes, record);
}

} // namespace

TEST_CASE("a record without an address comes back") {
    const Bytes bytes = encoded(EGRESS_BAD_USER, nullptr, 0, "user root");
    CHECK(bytes.size() == sizeof(wire::Head) + 9);
    wire::Record record;
    REQUIRE(wire::decode(bytes, record) == Fault::none);
    CHECK(record.action == EGRESS_BAD_USER);
    CHECK_FALSE(record.verified);
    CHECK(record.remote_length == 0);
    CHECK(record.message == "user root");
}

TEST_CASE("addresses and the verified flag come back") {
    const sockaddr_in four = in4("192.0.2.77", 4711);
    const sockaddr_in6 six = in6("fe80::77", 53, 9);
    wire::Record record;

    const Bytes first = encoded(EGRESS_ABUSIVE | EGRESS_VERIFIED, &four, sizeof four, "");
    REQUIRE(wire::decode(first, record) == Fault::none);
    CHECK(record.action == EGRESS_ABUSIVE);
    CHECK(record.verified);
    REQUIRE(record.remote_length == sizeof four);
    CHECK(std::memcmp(&record.remote, &four, sizeof four) == 0);
    CHECK(record.message.empty());

    const Bytes second = encoded(EGRESS_AUTH_OK, &six, sizeof six, "x");
    REQUIRE(wire::decode(second, record) == Fault::none);
    CHECK(record.action == EGRESS_AUTH_OK);
    CHECK_FALSE(record.verified);
    REQUIRE(record.remote_length == sizeof six);
    CHECK(std::memcmp(&record.remote, &six, sizeof six) == 0);
}

TEST_CASE("a longer address structure is taken, as from a sockaddr_storage") {
    sockaddr_storage storage{};
    const sockaddr_in four = in4("192.0.2.78", 1);
    std::memcpy(&storage, &four, sizeof four);
    CHECK_FALSE(encoded(EGRESS_AUTH_FAIL, &storage, sizeof storage, "").empty());
}

TEST_CASE("what cannot be sent is refused") {
    const sockaddr_in four = in4("192.0.2.1", 1);
    const sockaddr_in6 six = in6("2001:db8::1", 1);
    sockaddr_storage unix_address{};
    unix_address.ss_family = AF_UNIX;
    CHECK(encoded(4, nullptr, 0, "").empty());
    CHECK(encoded(-1, nullptr, 0, "").empty());
    CHECK(encoded(0x200, nullptr, 0, "").empty());
    CHECK(encoded(EGRESS_VERIFIED | 4, nullptr, 0, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, nullptr, 16, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, &four, 0, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, &four, 1, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, &four, sizeof four - 1, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, &six, sizeof six - 1, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, &six, sizeof four, "").empty());
    CHECK(encoded(EGRESS_AUTH_FAIL, &unix_address, sizeof unix_address, "").empty());
}

TEST_CASE("messages are kept as they are, and cut at their limit") {
    wire::Record record;
    const std::string odd("a\0b\n\x1b[31m\xff", 10);
    const Bytes first = encoded(EGRESS_AUTH_FAIL, nullptr, 0, odd);
    REQUIRE(wire::decode(first, record) == Fault::none);
    CHECK(record.message == odd);

    const Bytes second = encoded(EGRESS_AUTH_FAIL, nullptr, 0, std::string(5000, 'x'));
    CHECK(second.size() == wire::max_record);
    REQUIRE(wire::decode(second, record) == Fault::none);
    CHECK(record.message == std::string(wire::max_message, 'x'));

    const std::string split = std::string(wire::max_message - 1, 'x') + "\xc3\xa4";
    const Bytes third = encoded(EGRESS_AUTH_FAIL, nullptr, 0, split);
    REQUIRE(wire::decode(third, record) == Fault::none);
    CHECK(record.message == std::string(wire::max_message - 1, 'x'));
}

TEST_CASE("text is cut between characters") {
    struct Row {
        const char* what;
        std::string text;
        std::size_t limit;
        std::size_t expected;
    };
    const Row rows[] = {
        {"shorter than the limit", "abc", 4, 3},
        {"exactly the limit", "abcd", 4, 4},
        {"ASCII", "abcdef", 4, 4},
        {"nothing", "", 0, 0},
        {"no room", "a", 0, 0},
        {"no room for a continuation", "\x80", 0, 0},
        {"two bytes, whole", "ab\xc3\xa4z", 4, 4},
        {"two bytes, cut", "abc\xc3\xa4", 4, 3},
        {"three bytes, one left out", "ab\xe2\x82\xac", 4, 2},
        {"three bytes, two left out", "abc\xe2\x82\xac", 4, 3},
        {"four bytes, one left out", "a\xf0\x9f\x92\xa9", 4, 1},
        {"four bytes, three left out", "abc\xf0\x9f\x92\xa9", 4, 3},
        {"four bytes as the whole text", "\xf0\x9f\x92\xa9", 3, 0},
        {"a start without room before it", "\xc3\xa4", 1, 0},
        {"continuations without a start", "\x80\x80\x80\x80\x80\x80", 4, 4},
        {"a continuation after a whole character", "ab\xc3\xa4\x80", 4, 4},
        {"a byte that starts nothing", "abc\xff\x80", 4, 4},
        {"an overlong start", "abc\xc0\x80", 4, 4},
        {"a start past Unicode's end", "abc\xf5\x80\x80\x80", 4, 4},
        {"a start that nothing continues", "abc\xc3z", 4, 4},
        {"a short text that ends inside a character", "abc\xc3", 4, 4},
    };
    for (const Row& row : rows) {
        CAPTURE(row.what);
        CHECK(wire::utf8_cut(row.text, row.limit) == row.expected);
    }
}

TEST_CASE("each fault has its name") {
    CHECK(fault_of([](wire::Head&) {}) == Fault::none);
    CHECK(fault_of([](wire::Head& head) { head.magic ^= 1; }) == Fault::bad_magic);
    CHECK(fault_of([](wire::Head& head) { head.version = 0; }) == Fault::bad_version);
    CHECK(fault_of([](wire::Head& head) { head.version = 2; }) == Fault::bad_version);
    CHECK(fault_of([](wire::Head& head) { head.reserved = 1; }) == Fault::bad_version);
    CHECK(fault_of([](wire::Head& head) { ++head.length; }) == Fault::bad_length);
    CHECK(fault_of([](wire::Head& head) { head.length = 0; }) == Fault::bad_length);
    CHECK(fault_of([](wire::Head& head) { --head.message_length; }) == Fault::bad_length);
    CHECK(fault_of([](wire::Head& head) { head.message_length = 0xffff; }) == Fault::bad_length);
    CHECK(fault_of([](wire::Head& head) { head.action = 4; }) == Fault::bad_action);
    CHECK(fault_of([](wire::Head& head) { head.action = 0xffffffff; }) == Fault::bad_action);
    CHECK(fault_of([](wire::Head& head) { head.action = 0x201; }) == Fault::bad_action);
    CHECK(fault_of([](wire::Head& head) { head.family = AF_UNIX; }) == Fault::bad_address);
    CHECK(fault_of([](wire::Head& head) { head.family = 0; }) == Fault::bad_address);
    CHECK(fault_of([](wire::Head& head) { head.address[4] = 1; }) == Fault::bad_address);
    CHECK(fault_of([](wire::Head& head) { head.scope = 1; }) == Fault::bad_address);
}

TEST_CASE("lengths that lie are refused at every size") {
    const Bytes good = encoded(EGRESS_AUTH_FAIL, nullptr, 0, "hello");
    wire::Record record;
    record.action = 77;
    for (std::size_t size = 0; size < good.size(); ++size) {
        CAPTURE(size);
        CHECK(wire::decode({good.data(), size}, record) ==
              (size < sizeof(wire::Head) ? Fault::too_short : Fault::bad_length));
    }
    Bytes longer = good;
    longer.push_back(std::byte{});
    CHECK(wire::decode(longer, record) == Fault::bad_length);

    Bytes oversized(wire::max_record + 1);
    wire::Head head;
    std::memcpy(&head, good.data(), sizeof head);
    head.message_length = wire::max_message + 1;
    head.length = static_cast<std::uint16_t>(oversized.size());
    std::memcpy(oversized.data(), &head, sizeof head);
    CHECK(wire::decode(oversized, record) == Fault::bad_length);
    CHECK(record.action == 77); // untouched by every refusal
}

TEST_CASE("any bytes are refused, or are a record that encodes to themselves") {
    std::mt19937 random(20261122); // fixed: a failure can be repeated
    const Bytes good = encoded(EGRESS_AUTH_FAIL, nullptr, 0, "message");
    int accepted = 0;
    for (int round = 0; round < 200'000; ++round) {
        Bytes bytes = good;
        const auto changes = random() % 4;
        for (std::size_t i = 0; i < changes; ++i) {
            bytes[random() % bytes.size()] = static_cast<std::byte>(random());
        }
        if (random() % 8 == 0) {
            bytes.resize(random() % (wire::max_record + 10), static_cast<std::byte>(random()));
        }
        wire::Record record;
        if (wire::decode(bytes, record) != Fault::none) {
            continue;
        }
        ++accepted;
        const int flags = record.verified ? EGRESS_VERIFIED : 0;
        const void* remote = record.remote_length > 0 ? &record.remote : nullptr;
        const Bytes again = encoded(static_cast<int>(record.action) | flags, remote,
                                    record.remote_length, record.message);
        REQUIRE(again == bytes);
    }
    CHECK(accepted > 1000);
}
