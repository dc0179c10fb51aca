// dump on real databases, good and bad; check on real files.
#include "test/unit/ctl_test.h"

#include <doctest/doctest.h>
#include <lmdb.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/out.h"
#include "ctl/row.h"
#include "daemon/store/env.h"
#include "daemon/store/json.h"
#include "daemon/store/store.h"
#include "egress-paths.h"

using namespace egress;
using namespace egress::ctl;
using namespace egress::test;
using store::Row;
using store::State;

namespace {

constexpr auto noon32 = static_cast<std::uint32_t>(noon);

Row make(const char* address, std::uint16_t port, std::uint32_t count, std::uint32_t nfail) {
    Row row;
    row.name = "egress";
    row.address = *Prefix::parse(address);
    row.port = port;
    row.protocol = port == 0 ? 0 : IPPROTO_TCP;
    row.count = count;
    row.nfail = nfail;
    row.last = noon32 - 90;
    row.until = noon32 + 600;
    return row;
}

Row blocked(Row row, std::uint32_t until) {
    row.state = State::blocked;
    row.flags = store::in_force;
    row.since = noon32 - 60;
    row.until = until;
    row.id = "OK-7";
    return row;
}

void save(const std::string& directory, const std::vector<Row>& rows) {
    auto env = store::Env::open(directory, store::Env::Mode::read_write);
    REQUIRE_MESSAGE(env.has_value(), env.error().text);
    auto started = store::Store::start(std::move(*env));
    REQUIRE(started.has_value());
    store::Batch batch;
    for (const auto& row : rows) {
        batch.put(row);
    }
    (*started)->submit(batch);
    REQUIRE((*started)->wait().durable);
}

/// Puts bytes into a table behind the store's back.
void put_raw(const std::string& directory, const char* table, std::string key, std::string value) {
    auto env = store::Env::open(directory, store::Env::Mode::read_write);
    REQUIRE(env.has_value());
    MDB_txn* txn = nullptr;
    REQUIRE(mdb_txn_begin(env->handle(), nullptr, 0, &txn) == 0);
    MDB_dbi dbi = 0;
    REQUIRE(mdb_dbi_open(txn, table, 0, &dbi) == 0);
    MDB_val k{key.size(), key.data()};
    MDB_val v{value.size(), value.data()};
    REQUIRE(mdb_put(txn, dbi, &k, &v, 0) == 0);
    // The seal goes with the transaction that wrote last.
    MDB_val seal_key = store::value_of(store::seal_key);
    REQUIRE(mdb_get(txn, env->handles().main, &seal_key, &v) == 0);
    auto seal = store::decode_seal(store::view_of(v));
    REQUIRE(seal);
    seal->transaction = mdb_txn_id(txn);
    const auto bytes = store::encode(*seal);
    v = store::value_of(bytes);
    REQUIRE(mdb_put(txn, env->handles().main, &seal_key, &v, 0) == 0);
    REQUIRE(mdb_txn_commit(txn) == 0);
}

Ran dump(const TemporaryDirectory& directory, std::vector<std::string> options) {
    ::setenv("TZ", "UTC0", 1);
    options.insert(options.begin(), "dump");
    options.insert(options.end(), {"-D", directory.path()});
    return run_words(options);
}

/// A database with one row of every sort.
std::vector<Row> sorts() {
    auto hostile = make("203.0.113.9", 22, 1, 3);
    hostile.reason = "\x1b[2J\nx";
    auto wanted = blocked(make("192.0.2.4", 0, 0, 3), store::until_forever);
    wanted.flags = store::by_hand;
    wanted.id.clear();
    auto releasing = make("192.0.2.6", 22, 0, 3);
    releasing.state = State::releasing;
    auto forgotten = make("192.0.2.7", 22, 2, 3);
    forgotten.until = noon32 - 1;
    auto unseen = make("192.0.2.8", 22, 0, 0);
    unseen.last = 0;
    unseen.until = store::until_forever;
    return {make("192.0.2.1", 22, 2, 3),
            blocked(make("192.0.2.2", 22, 5, 3), noon32 + 3600),
            blocked(make("192.0.2.3", 22, 3, 3), noon32), // its last second has passed
            wanted,
            blocked(make("2001:db8:1:2::/64", 22, 3, 3), noon32 + 60),
            releasing,
            forgotten,
            unseen,
            hostile};
}

} // namespace

TEST_CASE("dump: columns, selections, zero, past expiry") {
    const TemporaryDirectory directory;
    save(directory.path(), sorts());
    const auto header = "        address/ma:port\tid\tnfail\tlast access\n";
    const auto counting = dump(directory, {});
    CHECK(counting.status == 0);
    CHECK(counting.out == std::string(header) +
                              "      192.0.2.1/32:22\t\t2/3\t2026/11/22 11:58:30\n"
                              "      192.0.2.8/32:22\t\t0/*\t-\n"
                              "    203.0.113.9/32:22\t\t1/3\t2026/11/22 11:58:30\n");
    CHECK(dump(directory, {"-bn"}).out ==
          "      192.0.2.2/32:22\tOK-7\t5/3\t2026/11/22 11:58:30\n"
          "      192.0.2.4/32:*\t\t0/3\t2026/11/22 11:58:30\n"
          " 2001:db8:1:2::/64:22\tOK-7\t3/3\t2026/11/22 11:58:30\n");
    const auto all = dump(directory, {"-anr"});
    CHECK(all.out == "      192.0.2.1/32:22\t\t2/3\t10m\n"
                     "      192.0.2.2/32:22\tOK-7\t5/3\t1h\n"
                     "      192.0.2.3/32:22\t\t0/3\texpired\n"
                     "      192.0.2.4/32:*\t\t0/3\tnever\n"
                     "      192.0.2.6/32:22\t\t0/3\texpired\n"
                     "      192.0.2.7/32:22\t\t0/3\texpired\n"
                     "      192.0.2.8/32:22\t\t0/*\tnever\n"
                     "    203.0.113.9/32:22\t\t1/3\t10m\n"
                     " 2001:db8:1:2::/64:22\tOK-7\t3/3\t1m\n");
    CHECK(has(dump(directory, {"-r"}).out, "remaining time\n"));
    const auto wide = dump(directory, {"-bnw"});
    CHECK(has(wide.out, std::string(39 - 14, ' ') + "2001:db8:1:2::/64:22\t"));
    CHECK(has(wide.out, std::string(39 - 9, ' ') + "192.0.2.2/32:22\t"));
}

TEST_CASE("dump: details, and nothing harmful on the terminal") {
    const TemporaryDirectory directory;
    save(directory.path(), sorts());
    const auto details = dump(directory, {"-ad"});
    CHECK(has(details.out, "last access\tprotocol\tname\tstate\tsince\tuntil\treason\n"));
    CHECK(
        has(details.out, "\ttcp\tegress\tblocked\t2026/11/22 11:59:00\t2026/11/22 13:00:00\t-\n"));
    CHECK(has(details.out, "\t*\tegress\twanted\t2026/11/22 11:59:00\tnever\t-\n"));
    CHECK(has(details.out, "\\x1b[2J\\x0ax\n"));
    CHECK(has(details.err, "9 rows of "));
    for (const auto& ran : {details, dump(directory, {"-a", "--json"})}) {
        CHECK(!has(ran.out, "\x1b"));
    }
}

TEST_CASE("dump --json: the keys, and what is unknown is absent") {
    const TemporaryDirectory directory;
    save(directory.path(), sorts());
    const auto rows = Json::parse(dump(directory, {"-a", "--json"}).out);
    REQUIRE(rows.size() == 9);
    CHECK(rows[1] == Json::parse(R"({"name":"egress","addr":"192.0.2.2","prefixlen":32,"port":22,
        "protocol":"tcp","count":5,"nfail":3,"state":"blocked","since":"2026-11-22T11:59:00Z",
        "until":"2026-11-22T13:00:00Z","id":"OK-7"})"));
    CHECK(rows[2]["state"] == "releasing");
    CHECK(!rows[2].contains("until"));
    CHECK(rows[3] == Json::parse(R"({"name":"egress","addr":"192.0.2.4","prefixlen":32,
        "count":0,"nfail":3,"state":"wanted","since":"2026-11-22T11:59:00Z"})"));
    auto monitored = blocked(make("192.0.2.2", 22, 5, 3), noon32 + 1);
    monitored.flags = store::monitor;
    CHECK(store::row_json(monitored)["state"] == "monitored");
    CHECK(!rows[6].contains("nfail"));
    CHECK(rows[7]["reason"] == "\x1b[2J\nx");
    std::string keys;
    auto full = blocked(make("192.0.2.2", 22, 5, 3), noon32 + 1);
    full.reason = "r";
    const auto object = store::row_json(full);
    for (const auto& [key, value] : object.items()) {
        keys += key + " ";
    }
    CHECK(keys == "name addr prefixlen port protocol count nfail state since until id reason ");
}

TEST_CASE("dump: an empty database is an empty list") {
    const TemporaryDirectory directory;
    save(directory.path(), {});
    CHECK(dump(directory, {"-an"}).out == "");
    CHECK(dump(directory, {"-a", "--json"}).out == "[]\n");
}

TEST_CASE("dump: beside a daemon that has the database open") {
    const TemporaryDirectory directory;
    save(directory.path(), {make("192.0.2.1", 22, 2, 3)});
    const auto daemon = store::Env::open(directory.path(), store::Env::Mode::read_write);
    REQUIRE(daemon.has_value());
    const auto pid = ::fork(); // LMDB wants one environment per database and process
    if (pid == 0) {
        ::_exit(dump(directory, {"-an"}).out.empty() ? 1 : 0);
    }
    int status = -1;
    ::waitpid(pid, &status, 0);
    CHECK(status == 0);
}

TEST_CASE("dump: a database that is missing, damaged, foreign, or not ours to read") {
    const auto fails = [](const TemporaryDirectory& directory, const std::string& says) {
        const auto text = dump(directory, {"-a"});
        CAPTURE(text.err);
        CHECK(text.status == 3);
        CHECK(has(text.err, says));
        const auto json = dump(directory, {"-a", "--json"});
        CHECK(json.status == 3);
        CHECK(!parse_json(json.out)); // never a list that looks whole
    };
    const TemporaryDirectory nothing;
    fails(nothing, "No such file or directory; no egressd has run with it");

    const TemporaryDirectory garbage;
    std::ofstream(garbage / "data.mdb") << std::string(65536, 'x');
    fails(garbage, "not an egress database");

    const TemporaryDirectory truncated;
    std::vector<Row> many;
    for (int i = 0; i < 1000; ++i) {
        many.push_back(make(
            ("10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250)).c_str(), 22, 1, 3));
    }
    save(truncated.path(), many);
    REQUIRE(::truncate((truncated / "data.mdb").c_str(), 16384) == 0);
    fails(truncated, "truncated");

    const TemporaryDirectory other;
    save(other.path(), {});
    put_raw(other.path(), "meta", "format", "99");
    fails(other, "has format 99");

    const TemporaryDirectory damaged;
    save(damaged.path(), {make("192.0.2.1", 22, 2, 3)});
    put_raw(damaged.path(), "rows", "zz\x1b", "junk");
    fails(damaged, "damaged");
    CHECK(!has(dump(damaged, {"-a"}).err, "\x1b"));
    CHECK(has(dump(damaged, {"-a"}).err,
              "damaged, left out: row of the table \"rows\" with the key"));
    CHECK(has(dump(damaged, {"-a"}).out, "192.0.2.1")); // what could be read is shown
    CHECK(dump(damaged, {"-x"}).out == "");
    REQUIRE(store::Env::open(damaged.path(), store::Env::Mode::read_write)); // as the daemon does
    const auto mended = dump(damaged, {"-a"});
    CHECK(mended.status == 0);
    CHECK(has(mended.out, "192.0.2.1"));
    const auto aside = dump(damaged, {"-x"});
    CHECK(aside.status == 0);
    CHECK(has(aside.out, "  key   7a7a1b\n  value 6a756e6b\n"));
    CHECK(!has(aside.out, "\x1b"));
    const auto list = parse_json(dump(damaged, {"-x", "--json"}).out);
    REQUIRE(list);
    REQUIRE(list->size() == 1);
    CHECK((*list)[0]["value"] == "6a756e6b");

    const TemporaryDirectory shut;
    save(shut.path(), {});
    if (::geteuid() == 0) {
        REQUIRE(::seteuid(65534) == 0);
        fails(shut, "you must be root to read the database");
        REQUIRE(::seteuid(0) == 0);
    } else {
        ::chmod((shut / "data.mdb").c_str(), 0);
        fails(shut, "you must be root to read the database");
    }
}

TEST_CASE("check: good, bad, printed, unreadable") {
    const TemporaryDirectory directory;
    const auto good = directory / "good.conf";
    std::ofstream(good) << "[local]\nssh stream * * * 3 10m\n[remote]\n10.0.0.0/8 * * * = * *\n";
    const auto fine = run_words({"check", good});
    CAPTURE(fine.err);
    CHECK(fine.status == 0);
    CHECK(has(fine.out, "ok: 1 local, 1 remote, 0 trusted, 0 egress lines"));
    const auto canonical = run_words({"check", "--print", good});
    CHECK(canonical.status == 0);
    CHECK(has(canonical.out, "[local]"));
    CHECK(run_words({"check", "-", "--print"}, "", canonical.out).out == canonical.out);

    const auto bad = directory / "bad.conf";
    std::ofstream(bad) << "[local]\nssh stream * * * 3 10m\n*:99999 stream * * * 3 10m\n";
    const auto wrong = run_words({"check", bad});
    CHECK(wrong.status == 1);
    CHECK(has(wrong.err, bad + ":3:"));
    CHECK(wrong.out == "");
    const auto json = run_words({"check", bad, "--json"});
    CHECK(json.status == 1);
    const auto told = Json::parse(json.out);
    CHECK(told["ok"] == false);
    CHECK(told["diagnostics"][0]["line"] == 3);
    CHECK(told["diagnostics"][0]["severity"] == "error");

    const auto shadowed = directory / "shadowed.conf";
    std::ofstream(shadowed) << "[local]\nssh stream * * * 3 10m\nssh stream * * * 5 1h\n";
    const auto warned = run_words({"check", shadowed});
    CHECK(warned.status == 0);
    CHECK(has(warned.err, shadowed + ":3:"));

    CHECK(run_words({"check", directory / "absent"}).status == 3);
    CHECK(run_words({"check", directory.path()}).status == 3);
    if (!std::filesystem::exists(EGRESS_CONF)) {
        CHECK(run_words({"check"}).status == 3);
    }
}
