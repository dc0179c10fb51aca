// Destinations by name in the tables: what a name's grant makes a line match.
#include <algorithm>
#include <set>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "daemon/bpf/names.h"
#include "daemon/bpf/tables/names.h"
#include "test/bpf/build.h"

namespace egress::bpf {

namespace {

using policy::NameKind;

Scene scene_of(const char* address, std::vector<std::string> names) {
    Scene scene;
    scene.destination = Address::parse(address).value();
    scene.answered = !names.empty();
    scene.names = std::move(names);
    return scene;
}

/// The lines that an address with these names leaves.
std::string lines_by(const Tables& tables, std::vector<std::string> names) {
    const auto decision = decide_compiled(tables, scene_of("192.0.2.1", std::move(names)));
    auto lines = decision.destination;
    for (std::size_t w = 0; w < std::size(lines.words); ++w) {
        lines.words[w] &= decision.names.words[w];
    }
    return lines_in(lines);
}

/// The index of a pattern in the table, with its flag; nullopt: it is not there.
std::optional<std::uint32_t> index_of(const Tables& tables, NameKind kind, const char* name) {
    const auto key = key_of({kind, name}, names_key);
    for (const auto& bucket : tables.names) {
        const auto* const at = std::ranges::find(bucket.keys, key);
        if (at != std::end(bucket.keys)) {
            return bucket.indexes[at - std::begin(bucket.keys)];
        }
    }
    return std::nullopt;
}

bool rebinds(const Tables& tables, NameKind kind, const char* name) {
    const auto index = index_of(tables, kind, name);
    REQUIRE(index.has_value());
    return (*index & EGRESS_NAME_REBINDS) != 0;
}

policy::Policy with_list(const std::string& lines, std::size_t names) {
    auto policy = policy_of("");
    policy::AddressList list{"l", "l", {}, {}};
    for (std::size_t i = 0; i < names; ++i) {
        list.names.add({static_cast<NameKind>(i % 3), fmt::format("n{}.example.org", i)});
    }
    policy.lists.push_back(std::make_shared<const policy::AddressList>(std::move(list)));
    for (const auto& rule : policy_of(lines).egress) {
        policy.egress.push_back(rule);
        policy.egress.back().destination.kind = policy::Destination::Kind::list;
        policy.egress.back().destination.text = "l";
    }
    return policy;
}

} // namespace

TEST_CASE("names: a line matches an address that was answered for its name") {
    const auto tables = tables_of(policy_of("a.example.org * * * * allow\n"
                                            "*.example.org * * * * allow\n"
                                            "**.example.org * * * * deny\n"
                                            "**.org * * * * deny\n"
                                            "192.0.2.0/24 * * * * deny\n"
                                            "a.example.org:80 * * * * deny\n"));
    CHECK(tables.base->has_names == 1);
    CHECK(tables.base->has_resolved == 0);
    CHECK(tables.names_used == 4);
    CHECK(lines_by(tables, {}) == "4");
    CHECK(lines_by(tables, {"a.example.org"}) == "0 1 2 3 4 5");
    CHECK(lines_by(tables, {"b.example.org"}) == "1 2 3 4");
    CHECK(lines_by(tables, {"b.a.example.org"}) == "2 3 4");
    CHECK(lines_by(tables, {"example.org"}) == "3 4");
    CHECK(lines_by(tables, {"org"}) == "4");
    CHECK(lines_by(tables, {"xexample.org"}) == "3 4");
    CHECK(lines_by(tables, {"org", "b.example.org"}) == "1 2 3 4");
}

TEST_CASE("names: without a line by name the tables have none") {
    const auto tables = tables_of(policy_of("192.0.2.0/24 * * * * deny\n"));
    CHECK(tables.base->has_names == 0);
    CHECK(tables.names.empty());
    CHECK(tables.base->names_buckets == 0);
    CHECK(lines_by(tables, {"a.example.org"}) == "0");
}

TEST_CASE("names: resolved leaves out what no answer gave") {
    const auto tables = tables_of(policy_of("192.0.2.0/24 * * * * allow resolved\n"
                                            "* * * * * deny resolved\n"
                                            "192.0.2.0/24 * * * * deny\n"));
    CHECK(tables.base->has_names == 1);
    CHECK(tables.base->has_resolved == (1 | EGRESS_NAME_REFUSES));
    CHECK(tables.names.empty());
    CHECK(lines_in(tables.vectors[tables.base->resolved[EGRESS_LITERAL]]) == "2");
    CHECK(lines_in(tables.vectors[tables.base->resolved[EGRESS_RESOLVED]]).starts_with("0 1 2"));
    CHECK(lines_in(tables.vectors[tables.base->resolved[EGRESS_DOUBTFUL]]) == "1 2");
    CHECK(decide_compiled(tables, scene_of("192.0.2.1", {})).rule == 2);
    CHECK(decide_compiled(tables, scene_of("192.0.2.1", {"any.example"})).rule == 0);
    CHECK(decide_compiled(tables, scene_of("203.0.113.1", {})).rule == EGRESS_UNMATCHED);
    CHECK(decide_compiled(tables, scene_of("203.0.113.1", {"any.example"})).rule == 1);
    // Nothing is known of an answer when a socket is created.
    CHECK(lines_in(tables.vectors[tables.base->at_create]) == "0");
}

TEST_CASE("names: whose missing grant would have refused something") {
    const auto tables = tables_of(policy_of("a.example * * * * allow\n"
                                            "b.example * * * * deny\n"
                                            "*.example * * * * allow resolved\n"
                                            "**.example * * * * reject\n"
                                            "*.example * * * * allow\n"));
    const auto refuses = [&](NameKind kind, const char* name) {
        const auto index = index_of(tables, kind, name);
        REQUIRE(index.has_value());
        return (*index & EGRESS_NAME_REFUSES) != 0;
    };
    CHECK_FALSE(refuses(NameKind::exact, "a.example"));
    CHECK(refuses(NameKind::exact, "b.example"));
    CHECK_FALSE(refuses(NameKind::one, "example"));
    CHECK(refuses(NameKind::deep, "example"));
    CHECK(tables.base->has_resolved == 1);
}

TEST_CASE("names: private addresses, where every line that allows the name permits them") {
    auto policy = policy_of("a.example * * * * allow\n"
                            "b.example * * * * allow rebind=allow\n"
                            "c.example * * * * allow rebind=allow\n"
                            "c.example * * * * allow host\n"
                            "d.example * * * * deny\n"
                            "e.example * * * * deny\n"
                            "e.example * * * * allow\n"
                            "f.corp.example * * * * allow\n"
                            "corp.example * * * * allow\n"
                            "**.corp.example * * * * allow\n"
                            "**.example * * * * allow\n"
                            "xcorp.example * * * * allow\n");
    World world = fake_world();
    world.search = {"corp.example"};
    const auto tables = compile(policy, world, 1);
    REQUIRE(tables.has_value());
    CHECK_FALSE(rebinds(*tables, NameKind::exact, "a.example"));
    CHECK(rebinds(*tables, NameKind::exact, "b.example"));
    CHECK_FALSE(rebinds(*tables, NameKind::exact, "c.example"));
    CHECK(rebinds(*tables, NameKind::exact, "d.example")); // a refusal is for every address
    CHECK_FALSE(rebinds(*tables, NameKind::exact, "e.example"));
    CHECK(rebinds(*tables, NameKind::exact, "f.corp.example"));
    CHECK(rebinds(*tables, NameKind::exact, "corp.example"));
    CHECK(rebinds(*tables, NameKind::deep, "corp.example"));
    CHECK_FALSE(rebinds(*tables, NameKind::deep, "example"));
    CHECK_FALSE(rebinds(*tables, NameKind::exact, "xcorp.example"));
}

TEST_CASE("names: refusals by name hold where an answer may have been lost") {
    const auto tables = tables_of(policy_of("a.example * * * * deny\n"
                                            "b.example * * * * allow\n"
                                            "192.0.2.1 * * * * deny\n"
                                            "* * * * * deny resolved\n"));
    CHECK(lines_in(tables.vectors[tables.base->names_doubt]) == "0");
}

TEST_CASE("names: every name of a long list is found, and shares the list's rules") {
    constexpr std::size_t many = 100000;
    const auto policy = with_list("* * * root * allow\n* * * * * deny\n", many);
    const auto tables = tables_of(policy);
    CHECK(tables.names_used == many);
    CHECK(tables.names.size() == tables.base->names_buckets);
    CHECK(tables.names.size() * sizeof(egress_names) < many * 32);
    std::set<std::uint32_t> indexes;
    std::size_t found = 0;
    policy.lists[0]->names.each([&](const auto& pattern) {
        const auto key = key_of(pattern, names_key);
        for (std::uint32_t step = 0; step < EGRESS_NAMES_STEPS; ++step) {
            const auto& bucket = tables.names[(key + step) & (tables.names.size() - 1)];
            for (int i = 0; i < EGRESS_NAMES_WAYS; ++i) {
                if (bucket.keys[i] == key) {
                    indexes.insert(bucket.indexes[i]);
                    ++found;
                    return;
                }
            }
        }
    });
    CHECK(found == many);
    CHECK(indexes.size() == 1);
    CHECK(lines_by(tables, {"n0.example.org"}) == "0 1");
    CHECK(lines_by(tables, {"x.n1.example.org"}) == "0 1");
    CHECK(lines_by(tables, {"n1.example.org"}) == "");
}

TEST_CASE("names: one written otherwise is the same") {
    const std::array<__u64, 2> key = {names_key[0], names_key[1]};
    const auto hash = [&](std::string_view text) {
        return egress_hash_name(key.data(), text.data(), static_cast<std::uint32_t>(text.size()));
    };
    CHECK(hash("a.example.org") == hash("A.Example.ORG."));
    CHECK(hash("a.example.org") != hash("a.example.com"));
    CHECK(hash("a.example.org") != hash("aexample.org"));
    CHECK(hash("ab.c") != hash("a.bc"));
    CHECK(hash(std::string(63, 'a') + ".org") != 0);
    CHECK(hash(std::string(64, 'a') + ".org") == 0);
    CHECK(hash("") == 0);
    CHECK(hash(".") == 0);
    CHECK(hash("a..b") == 0);
}

} // namespace egress::bpf
