// The names that programs asked for: text of a message's labels, and the bounded table.
#include <algorithm>

#include <doctest/doctest.h>

#include "daemon/egress/asked_names.h"

namespace egress {

namespace {

std::vector<std::uint8_t> labels(const std::vector<std::string>& texts) {
    std::vector<std::uint8_t> out;
    for (const auto& text : texts) {
        out.push_back(static_cast<std::uint8_t>(text.size()));
        out.insert(out.end(), text.begin(), text.end());
    }
    out.push_back(0);
    return out;
}

egress_told told(const std::string& label, std::vector<std::uint64_t> keys,
                 const std::vector<std::pair<std::string, std::uint64_t>>& granted,
                 std::uint32_t mask = 1) {
    egress_told out{};
    std::ranges::copy(labels({label, "Example"}), out.name);
    std::ranges::copy(keys, out.keys);
    out.keys_used = static_cast<std::uint32_t>(keys.size());
    for (const auto& [address, until] : granted) {
        auto& one = out.addresses[out.addresses_used++];
        std::ranges::copy(Address::parse(address)->raw(), one.address);
        one.until = until;
        one.keys = mask;
    }
    return out;
}

std::string found(const AskedNames& names, const std::string& address, std::uint64_t key) {
    const auto name = names.find(*Address::parse(address), key);
    return name ? *name : "-";
}

} // namespace

TEST_CASE("a name of a message becomes text that is safe to print") {
    CHECK(name_text(labels({"Files", "EXAMPLE", "org"})) == "files.example.org");
    CHECK(name_text(labels({"_dmarc", "xn--9ca"})) == "_dmarc.xn--9ca");
    CHECK(name_text(labels({"a.b", std::string("\0\n\x1b\xff", 4), "c\\"})) ==
          "a\\.b.\\000\\010\\027\\255.c\\\\");
    CHECK(name_text(labels({std::string(63, 'a')})) == std::string(63, 'a'));
    CHECK_FALSE(name_text(labels({})));
    CHECK_FALSE(name_text(labels({std::string(64, 'a')})));
    CHECK_FALSE(name_text(std::vector<std::uint8_t>{3, 'a', 'b'}));
    CHECK_FALSE(name_text(std::vector<std::uint8_t>{2, 'a', 'b'}));
    CHECK_FALSE(name_text(std::vector<std::uint8_t>(300, 1)));
}

TEST_CASE("an answer is found by address and key") {
    AskedNames names;
    auto one = told("One", {7, 8}, {{"192.0.2.1", 100}, {"2001:db8::1", 100}});
    one.addresses[1].keys = 3;
    names.take(one);
    CHECK(found(names, "192.0.2.1", 7) == "one.example");
    CHECK(found(names, "192.0.2.1", 8) == "-");
    CHECK(found(names, "2001:db8::1", 8) == "one.example");
    CHECK(names.of_name("one.example").size() == 3);
    names.take(told("two", {7}, {{"192.0.2.1", 50}}));
    CHECK(found(names, "192.0.2.1", 7) == "two.example");
    CHECK(names.size() == 3);
    CHECK(names.of_name("two.example").at(0).until == 100);
    auto lying = told("three", {7}, {{"192.0.2.9", 100}});
    lying.keys_used = 1000;
    lying.addresses_used = 1000;
    names.take(lying);
    CHECK(found(names, "192.0.2.9", 7) == "three.example");
}

TEST_CASE("of a full table, what ends first goes; what ended long ago goes anyway") {
    AskedNames names;
    const auto fill = [&](std::uint64_t from, std::uint64_t count) {
        for (std::uint64_t key = from; key < from + count; ++key) {
            names.take(told("n", {key}, {{"192.0.2.1", 10 + (key ^ 1)}}));
        }
    };
    fill(2, AskedNames::names_max);
    CHECK(names.size() == AskedNames::names_max);
    fill(AskedNames::names_max + 2, 1);
    CHECK(names.size() == AskedNames::names_max);
    CHECK(found(names, "192.0.2.1", 3) == "-"); // it ended first
    CHECK(found(names, "192.0.2.1", 2) == "n.example");
    names.forget(AskedNames::kept_ns + 10 + 100);
    CHECK(found(names, "192.0.2.1", 2) == "-");
    CHECK(found(names, "192.0.2.1", 101) == "n.example");
    names.forget(~std::uint64_t{0});
    CHECK(names.size() == 0);
}

} // namespace egress
