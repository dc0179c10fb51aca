// The tables beside the destination's, and the search through all of them.
#include <array>

#include <fmt/format.h>

#include "daemon/bpf/tables/vectors.h"
#include "test/bpf/build.h"

namespace egress::bpf {

TEST_CASE("equal sets are stored once, and never as number 0") {
    VectorPool pool;
    egress_vector one{};
    egress_vector other{};
    CHECK(pool.add(one) == EGRESS_EMPTY);
    set(one, 1023);
    set(other, 0);
    const auto first = pool.add(one);
    CHECK(first > EGRESS_EMPTY);
    CHECK(pool.add(other) != first);
    CHECK(pool.add(one) == first);
    CHECK(pool.add(combine(one, other, other)) == first);
    const auto stored = pool.take();
    CHECK(stored.size() == 4);
    CHECK(is_empty(stored[0]));
    CHECK(is_empty(stored[EGRESS_EMPTY]));
    CHECK(lines_in(stored[first]) == "1023");
}

TEST_CASE("sets are joined, cut, and know which words are in use") {
    egress_vector base{};
    egress_vector plus{};
    egress_vector minus{};
    set(base, 3);
    set(base, 64);
    set(plus, 1000);
    set(plus, 5);
    set(minus, 64);
    set(minus, 5);
    const auto out = combine(base, plus, minus);
    CHECK(lines_in(out) == "3 1000");
    CHECK(out.any == ((std::uint64_t{1} << 0) | (std::uint64_t{1} << 15)));
    CHECK(is_empty(combine(base, {}, base)));
}

TEST_CASE("each line can be the one that decides") {
    // A user of its own for each: every bit of every word is the lowest once.
    policy::Policy policy;
    for (std::uint32_t i = 0; i < EGRESS_MAX_RULES; ++i) {
        policy.egress.emplace_back().owner.uid = 5000 + i;
    }
    const auto tables = tables_of(policy);
    Scene scene;
    for (std::uint32_t i = 0; i < EGRESS_MAX_RULES; ++i) {
        scene.uid = 5000 + i;
        REQUIRE(decide_compiled(tables, scene).rule == i);
    }
    for (const std::uint32_t uid : {0U, 4999U, 5000U + EGRESS_MAX_RULES, 4294967295U}) {
        scene.uid = uid;
        CHECK(decide_compiled(tables, scene).rule == EGRESS_UNMATCHED);
    }
}

TEST_CASE("of two lines that match, the first decides, far apart or near") {
    policy::Policy policy;
    policy.egress.resize(EGRESS_MAX_RULES);
    for (auto& rule : policy.egress) {
        rule.owner.uid = 1;
    }
    for (const std::size_t at : {0UL, 1UL, 62UL, 63UL, 64UL, 127UL, 128UL, 1022UL}) {
        auto changed = policy;
        changed.egress[at].owner.uid = 2;
        changed.egress[at + 1].owner.uid.reset();
        Scene scene;
        scene.uid = 2;
        CHECK(decide_compiled(tables_of(changed), scene).rule == at);
        scene.uid = 3;
        CHECK(decide_compiled(tables_of(changed), scene).rule == at + 1);
    }
}

TEST_CASE("however many lines are out of their time, the search goes on to its end") {
    policy::Policy policy;
    policy.egress.resize(EGRESS_MAX_RULES);
    for (auto& rule : policy.egress) {
        rule.options.until = monday;
    }
    Scene scene;
    scene.now = monday + 1;
    CHECK(decide_compiled(tables_of(policy), scene).rule == EGRESS_UNMATCHED);
    policy.egress.back().options.until.reset();
    CHECK(decide_compiled(tables_of(policy), scene).rule == EGRESS_MAX_RULES - 1);
    scene.now = monday - 1;
    CHECK(decide_compiled(tables_of(policy), scene).rule == 0);
}

TEST_CASE("more lines than there are bits are told") {
    policy::Policy policy;
    policy.egress.resize(EGRESS_MAX_RULES + 1);
    const auto tables = compile(policy, fake_world(), 1);
    REQUIRE_FALSE(tables.has_value());
    CHECK(tables.error().text.find("1025") != std::string::npos);
}

TEST_CASE("no line at all leaves everything unmatched") {
    CHECK(decide_compiled(tables_of(policy::Policy{}), Scene{}).rule == EGRESS_UNMATCHED);
}

TEST_CASE("ports: first, last, next to them, alone and touching another line's") {
    const auto tables = tables_of(policy_of("*:80-90 * * * * deny\n*:91,443 * * * * deny\n"
                                            "* * * * * deny\n*:65535 * * * * deny\n"
                                            "*:1-65535 * * * * deny\n"));
    const auto at = [&](std::uint16_t port) {
        Scene scene;
        scene.port = port;
        return lines_in(decide_compiled(tables, scene).port);
    };
    CHECK(at(0) == "2");
    CHECK(at(1) == "2 4");
    CHECK(at(79) == "2 4");
    CHECK(at(80) == "0 2 4");
    CHECK(at(90) == "0 2 4");
    CHECK(at(91) == "1 2 4");
    CHECK(at(92) == "2 4");
    CHECK(at(443) == "1 2 4");
    CHECK(at(65534) == "2 4");
    CHECK(at(65535) == "2 3 4");
}

TEST_CASE("types and protocols, named and not") {
    const auto tables = tables_of(policy_of("* stream tcp * * deny\n* dgram udp * * deny\n"
                                            "* * 255 * * deny\n* raw * * * deny\n"
                                            "* * * * * deny\n"));
    const auto of = [&](int type, int protocol) {
        Scene scene;
        scene.type = type;
        scene.protocol = protocol;
        return lines_in(decide_compiled(tables, scene).protocol);
    };
    CHECK(of(1, 6) == "0 4");
    CHECK(of(1, 17) == "4");
    CHECK(of(2, 17) == "1 4");
    CHECK(of(2, 6) == "4");
    CHECK(of(3, 255) == "2 3 4");
    CHECK(of(3, 1) == "3 4");
    CHECK(of(6, 33) == "4");
    CHECK(of(0, 0) == "4");
}

TEST_CASE("owners, named and not") {
    policy::Policy policy;
    policy.egress.resize(5);
    policy.egress[0].owner.uid = 0;
    policy.egress[2].owner = {33, 33};
    policy.egress[3].owner.gid = 0;
    policy.egress[4].owner.uid = 4294967294;
    const auto tables = tables_of(policy);
    const auto of = [&](std::uint32_t uid, std::uint32_t gid) {
        Scene scene;
        scene.uid = uid;
        scene.gid = gid;
        const auto decision = decide_compiled(tables, scene);
        return lines_in(decision.uid) + " / " + lines_in(decision.gid);
    };
    CHECK(of(0, 0) == "0 1 3 / 0 1 3 4");
    CHECK(of(33, 33) == "1 2 3 / 0 1 2 4");
    CHECK(of(4294967294, 1) == "1 3 4 / 0 1 4");
    CHECK(of(4294967295, 1) == "1 3 / 0 1 4");
}

TEST_CASE("a program is its file; inside a container it is its path") {
    const auto tables = tables_of(policy_of("* * * * /usr/bin/curl deny\n"
                                            "* * * * /usr/bin/curl deny container\n"
                                            "* * * * /usr/** deny\n"
                                            "* * * * /usr/bin/** deny container\n"
                                            "* * * * curl deny\n"
                                            "* * * * * deny\n"));
    Scene scene;
    const auto lines = [&] { return lines_in(decide_compiled(tables, scene).subject); };
    scene.path = "/usr/bin/curl";
    scene.file = files_of(scene.path).front();
    CHECK(lines() == "0 1 2 3 5");
    scene.file = unnamed_file; // replaced since the lines were compiled
    CHECK(lines() == "0 1 2 3 5");
    scene.host_path = false; // a path that another root calls so
    CHECK(lines() == "1 3 5");
    scene.path = "/tmp/link";
    scene.file = files_of("/usr/bin/curl").front();
    CHECK(lines() == "0 5");
    scene.file.device ^= 1; // the same number elsewhere
    CHECK(lines() == "5");
    scene.command = "curl";
    CHECK(lines() == "4 5");
    scene = Scene{};
    scene.path = "/usr/binx";
    CHECK(lines() == "2 5");
    scene.path = "/usrx/bin/curl";
    CHECK(lines() == "5");
    scene.path = "/usr";
    CHECK(lines() == "5");
}

TEST_CASE("a loader is its own program and any that some line refuses") {
    World world = fake_world();
    world.loaders = {"/srv/p7"};
    const auto decide = [&world](const std::string& rules, const Scene& scene) {
        return decide_compiled(tables_of(policy_of(rules), world), scene);
    };
    Scene by_file;
    by_file.file = files_of("/srv/p7").front();
    by_file.path = "/elsewhere";
    Scene by_place; // after an upgrade, under the same name
    by_place.file = unnamed_file;
    by_place.path = "/srv/p7";
    for (const auto& loader : {by_file, by_place}) {
        for (const auto* refuses : {"/usr/bin/curl", "/opt/**", "fetcher"}) {
            const auto line = fmt::format("* * * * {} deny\n", refuses);
            CHECK(decide(line, loader).rule == 0);
            CHECK(decide("* * * * /srv/p7 allow\n" + line, loader).rule == 0);
            CHECK(decide(line + "* * * * * allow\n", loader).rule == 0);
        }
        CHECK(decide("* * * * /usr/bin/curl allow\n", loader).rule == EGRESS_UNMATCHED);
        CHECK(decide("* * * 77 /usr/bin/curl deny\n", loader).rule == EGRESS_UNMATCHED);
        CHECK(decide("* * * * /usr/bin/curl deny\n", Scene{}).rule == EGRESS_UNMATCHED);
    }
    // What is unknown on the loader's file system is not the loader.
    Scene lost;
    lost.file = unnamed_file;
    lost.lost_place = true;
    CHECK(decide("* * * * fetcher deny\n", lost).rule == EGRESS_UNMATCHED);
}

TEST_CASE("parent is the nearest, under is any of sixteen") {
    const auto tables = tables_of(policy_of("* * * * * deny parent=/usr/bin/wget\n"
                                            "* * * * * deny under=/usr/bin/wget\n"
                                            "* * * * * deny under=/gone\n"
                                            "* * * * * deny\n"));
    Scene scene;
    const auto lines = [&] { return lines_in(decide_compiled(tables, scene).subject); };
    CHECK(lines() == "3");
    for (const auto& file : files_of("/usr/bin/wget")) {
        scene.ancestors = {file};
        CHECK(lines() == "0 1 3");
        for (std::size_t depth = 1; depth < EGRESS_MAX_ANCESTORS; ++depth) {
            scene.ancestors.insert(scene.ancestors.begin(), unnamed_file);
            CHECK(lines() == "1 3");
        }
    }
    scene.ancestors.back() = unnamed_file;
    CHECK(lines() == "3");
}

TEST_CASE("a cgroup is all below it, a unit wherever it is") {
    const auto tables = tables_of(policy_of("* * * * * deny cgroup=/guests.slice\n"
                                            "* * * * * deny unit=nginx.service\n"
                                            "* * * * * deny cgroup=/\n"
                                            "* * * * * deny\n"
                                            "* * * * * deny cgroup=/gone\n"));
    const std::array<const char*, 10> wanted = {"2 3",     "0 2 3", "2 3",   "0 2 3", "0 2 3",
                                                "0 1 2 3", "2 3",   "1 2 3", "1 2 3", "2 3"};
    Scene scene;
    for (scene.cgroup = 0; scene.cgroup < all_cgroups().size(); ++scene.cgroup) {
        CHECK_MESSAGE(lines_in(decide_compiled(tables, scene).cgroup) == wanted[scene.cgroup],
                      all_cgroups()[scene.cgroup].path);
    }
}

TEST_CASE("container and host") {
    const auto tables = tables_of(policy_of("* * * * * deny container\n* * * * * deny host\n"
                                            "* * * * * deny\n"));
    Scene scene;
    CHECK(lines_in(decide_compiled(tables, scene).place) == "1 2");
    scene.container = true;
    CHECK(lines_in(decide_compiled(tables, scene).place) == "0 2");
}

TEST_CASE("what is known before the program is known") {
    const auto tables =
        tables_of(policy_of("* * * * /usr/bin/curl deny\n* * * * * deny parent=/usr/bin/wget\n"
                            "* * * * * deny under=/usr/bin/wget\n*:53 * * * * deny\n"
                            "10.0.0.1 * * * * allow\n* * * * * reject\n"));
    CHECK(lines_in(tables.vectors[tables.base->stranger]) == "3 4 5");
    // A socket may be made if some destination can be reached with it.
    CHECK(lines_in(tables.vectors[tables.base->at_create]) == "0 1 2 4 5");
}

} // namespace egress::bpf
