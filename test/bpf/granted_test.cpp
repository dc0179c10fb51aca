// What is told of grants, and whose answers count.
#include <algorithm>
#include <vector>

#include <bpf/bpf.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "daemon/bpf/load/answers.h"
#include "daemon/bpf/names.h"
#include "daemon/bpf/tables/granted.h"
#include "daemon/bpf/tables/names.h"
#include "daemon/bpf/tables/world.h"
#include "lib/fd.h"
#include "test/bpf/build.h"

namespace egress::bpf {

namespace {

using policy::NameKind;
constexpr std::uint64_t now = 1000;

/// Grants as the hooks write them.
class Sets {
  public:
    Sets() : sets_(EGRESS_GRANTS_SETS) {}
    const egress_grants* all() const { return sets_.data(); }

    void add(const char* address, std::uint64_t key, std::uint64_t until, bool second = false) {
        const auto raw = Address::parse(address).value().raw();
        const std::array<__u64, 2> secret = {names_key[0], names_key[1]};
        const auto hash = egress_grants_of(secret.data(), raw.data());
        auto& set = sets_[second ? EGRESS_SECOND_SET(hash) : EGRESS_FIRST_SET(hash)];
        auto* const grant = std::ranges::find_if(
            set.each, [](const egress_grant& each) { return each.until == 0; });
        REQUIRE(grant != std::end(set.each));
        std::ranges::copy(raw, grant->address);
        grant->key = key;
        grant->until = until;
    }

  private:
    std::vector<egress_grants> sets_;
};

std::uint64_t key(NameKind kind, const char* name) {
    return key_of({kind, name}, names_key);
}

/// "name until", sorted.
std::string told(std::vector<Granted> granted) {
    std::vector<std::string> lines;
    for (const auto& each : granted) {
        lines.push_back(fmt::format("{} {} {}", each.address.text(), each.name, each.until));
    }
    std::ranges::sort(lines);
    return fmt::format("{}", fmt::join(lines, "\n"));
}

policy::Policy rules() {
    auto policy = policy_of("a.example * * * * allow\n"
                            "*.example * * * * allow\n"
                            "a.example:80 * * * * deny\n"
                            "**.other * * * * allow\n");
    policy::AddressList list{"l", "l", {}, {}};
    list.names.add({NameKind::exact, "listed.example"});
    policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    return policy;
}

} // namespace

TEST_CASE("granted: the names of an address, each once, as the rules write them") {
    Sets sets;
    sets.add("192.0.2.1", key(NameKind::exact, "a.example"), 2000);
    sets.add("192.0.2.1", key(NameKind::one, "example"), 3000, true);
    sets.add("192.0.2.1", key(NameKind::exact, "listed.example"), 4000);
    sets.add("192.0.2.1", key(NameKind::deep, "other"), now); // over
    sets.add("192.0.2.1", key(NameKind::exact, "of.no.line"), 5000);
    sets.add("192.0.2.2", key(NameKind::deep, "other"), EGRESS_GRANT_WRITTEN);
    sets.add("2001:db8::1", EGRESS_ANY_NAME, 6000);
    const auto of = [&](const char* address) {
        return told(
            granted_to(rules(), names_key, sets.all(), Address::parse(address).value(), now));
    };
    CHECK(of("192.0.2.1") == "192.0.2.1 *.example 3000\n"
                             "192.0.2.1 a.example 2000\n"
                             "192.0.2.1 listed.example 4000");
    CHECK(of("192.0.2.2").empty());
    CHECK(of("2001:db8::1") == "2001:db8::1  6000");
    CHECK(of("192.0.2.3").empty());
    CHECK(
        granted_to(rules(), names_key, nullptr, Address::parse("192.0.2.1").value(), now).empty());
}

TEST_CASE("granted: the addresses of a name, also by the patterns around it") {
    Sets sets;
    sets.add("192.0.2.1", key(NameKind::exact, "a.example"), 2000);
    sets.add("192.0.2.2", key(NameKind::one, "example"), 3000);
    sets.add("192.0.2.3", key(NameKind::deep, "other"), 4000);
    const auto of = [&](const char* name, std::size_t most = 100) {
        return told(granted_by(rules(), names_key, sets.all(), name, now, most));
    };
    CHECK(of("a.example") == "192.0.2.1 a.example 2000\n192.0.2.2 *.example 3000");
    CHECK(of("b.example") == "192.0.2.2 *.example 3000");
    CHECK(of("b.a.example").empty());
    CHECK(of("x.y.other") == "192.0.2.3 **.other 4000");
    CHECK(of("other").empty());
    CHECK(granted_by(rules(), names_key, sets.all(), "a.example", now, 1).size() == 1);
}

TEST_CASE("granted: the resolvers of [dns] count, else the system's") {
    const auto parsed = policy::parse_text("[dns]\nresolver 192.0.2.53:5353\n[egress]\n"
                                           "a.example * * * * allow\n",
                                           "t");
    Inventory inventory;
    inventory.resolv.nameservers = {*Address::parse("127.0.0.53"), *Address::parse("2001:db8::1")};
    CHECK(resolvers_of(parsed.policy, inventory) ==
          std::vector<Endpoint>{{*Address::parse("192.0.2.53"), 5353}});
    CHECK(resolvers_of(policy_of("a.example * * * * allow\n"), inventory) ==
          std::vector<Endpoint>{{*Address::parse("127.0.0.53"), 53},
                                {*Address::parse("2001:db8::1"), 53}});
    CHECK(needs_answers(policy_of("a.example * * * * allow\n")));
    CHECK(needs_answers(policy_of("* * * * * allow resolved\n")));
    CHECK_FALSE(needs_answers(policy_of("* * * * * allow\n")));
}

TEST_CASE("granted: the kernel's map of resolvers holds what is wanted, and no more") {
    const int made = bpf_map_create(BPF_MAP_TYPE_HASH, "resolvers", sizeof(egress_resolver),
                                    sizeof(std::uint32_t), EGRESS_MAX_RESOLVERS, nullptr);
    if (made < 0) {
        MESSAGE("SKIP: no BPF map can be made here");
        return;
    }
    const Fd map(made);
    const auto has = [&](const char* address, std::uint16_t port) {
        egress_resolver wanted{};
        std::ranges::copy(Address::parse(address).value().raw(), wanted.address);
        wanted.port = port;
        std::uint32_t value = 0;
        return bpf_map_lookup_elem(map.get(), &wanted, &value) == 0 && value == 1;
    };
    const Endpoint first{*Address::parse("192.0.2.1"), 53};
    const Endpoint second{*Address::parse("2001:db8::1"), 5353};
    REQUIRE(set_resolvers(map.get(), {first, second}));
    CHECK(has("192.0.2.1", 53));
    CHECK(has("2001:db8::1", 5353));
    CHECK_FALSE(has("2001:db8::1", 53));
    REQUIRE(set_resolvers(map.get(), {second}));
    CHECK_FALSE(has("192.0.2.1", 53));
    CHECK(has("2001:db8::1", 5353));
    std::vector<Endpoint> many;
    for (std::uint8_t i = 0; i < EGRESS_MAX_RESOLVERS; ++i) {
        many.push_back({*Address::from_bytes(std::array<std::uint8_t, 4>{10, 0, 0, i}), 53});
    }
    REQUIRE(set_resolvers(map.get(), many));
    CHECK(has("10.0.0.63", 53));
    CHECK_FALSE(has("2001:db8::1", 5353));
    REQUIRE(set_resolvers(map.get(), {}));
    CHECK_FALSE(has("10.0.0.63", 53));
}

} // namespace egress::bpf
