// The database: rows on disk and back, what happens to damaged files, and what "durable" means.
#include "daemon/store/store.h"

#include <csignal>
#include <map>
#include <random>
#include <set>

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core_test.h"
#include "daemon/store/epoch.h"
#include "daemon/store/records.h"

using namespace egress;
using namespace egress::store;
using test::Folder;

namespace {

using Bytes = std::vector<std::uint8_t>;

Row row_of(std::uint32_t number) {
    Row row;
    row.name = "egress";
    const std::array<std::uint8_t, 4> bytes = {10, static_cast<std::uint8_t>(number >> 16),
                                               static_cast<std::uint8_t>(number >> 8),
                                               static_cast<std::uint8_t>(number)};
    row.address = Prefix::host(*Address::from_bytes(bytes));
    row.protocol = 6;
    row.port = 22;
    row.count = number;
    row.until = 4'000'000'000;
    return row;
}

class RandomRows {
  public:
    Row next() {
        Row row;
        row.name = text(1, max_name);
        std::array<std::uint8_t, 16> bytes;
        for (auto& byte : bytes) {
            byte = static_cast<std::uint8_t>(random_());
        }
        const bool v4 = random_() % 2 == 0;
        const auto one = *Address::from_bytes(std::span(bytes).first(v4 ? 4 : 16));
        row.address = Prefix::around(one, static_cast<int>(random_() % (v4 ? 33 : 129)));
        row.protocol = static_cast<std::uint8_t>(random_());
        row.port = static_cast<std::uint16_t>(random_());
        row.state = static_cast<State>(random_() % 3);
        row.flags = static_cast<std::uint8_t>(random_() % 16);
        row.grow_length = static_cast<std::uint8_t>(random_() % 129);
        row.count = static_cast<std::uint32_t>(random_());
        row.nfail = static_cast<std::uint32_t>(random_());
        row.strikes = static_cast<std::uint16_t>(random_());
        row.last = static_cast<std::uint32_t>(random_());
        row.since = static_cast<std::uint32_t>(random_());
        row.until = static_cast<std::uint32_t>(random_());
        row.history.resize(random_() % (max_history + 1));
        for (auto& past : row.history) {
            past = {static_cast<std::uint32_t>(random_()), static_cast<std::uint16_t>(random_())};
        }
        row.id = text(0, 255);
        row.reason = text(0, max_reason);
        return row;
    }
    std::uint32_t operator()() { return static_cast<std::uint32_t>(random_()); }

  private:
    std::string text(std::size_t least, std::size_t most) {
        std::string out(least + random_() % (most - least + 1), ' ');
        for (auto& c : out) {
            c = static_cast<char>(random_());
        }
        return out;
    }
    std::mt19937 random_{23};
};

Env opened(const std::string& directory) {
    auto env = Env::open(directory, Env::Mode::read_write);
    INFO((env ? "" : env.error().text));
    REQUIRE(env);
    return std::move(*env);
}

std::unique_ptr<Store> started(const std::string& directory) {
    auto store = Store::start(opened(directory));
    REQUIRE(store);
    return std::move(*store);
}

std::map<std::string, Row> rows_in(const Env& env) {
    std::map<std::string, Row> rows;
    const auto expected = env.rows();
    const auto read = env.each([&](Row&& row) {
        rows.emplace(row.address.text(), std::move(row));
        return true;
    });
    INFO((read ? "" : read.error().text));
    REQUIRE(read);
    CHECK(rows.size() == expected);
    return rows;
}

void write_rows(const std::string& directory, std::uint32_t rows) {
    const auto store = started(directory);
    Batch batch;
    for (std::uint32_t i = 0; i < rows; ++i) {
        batch.put(row_of(i));
    }
    store->submit(batch);
    REQUIRE(store->wait().durable);
}

/// Opens and walks the database in a child, so that a crash is a failed test and no crashed one.
std::string open_error(const std::string& directory, Env::Mode mode) {
    std::array<int, 2> ends{};
    REQUIRE(pipe(ends.data()) == 0);
    const pid_t pid = fork();
    if (pid == 0) {
        const auto env = Env::open(directory, mode);
        const auto walked =
            env ? env->each([](Row&&) { return true; }) : Result<>(std::unexpected(env.error()));
        const std::string text = walked ? "" : walked.error().text;
        _exit(write(ends[1], text.data(), text.size()) < 0);
    }
    close(ends[1]);
    std::string text(4096, '\0');
    const ssize_t got = read(ends[0], text.data(), text.size());
    close(ends[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    CHECK(status == 0);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
}

void overwrite(const std::string& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

} // namespace

TEST_CASE("records: random rows come back as they were") {
    RandomRows random;
    for (int i = 0; i < 20'000; ++i) {
        const Row row = random.next();
        Bytes key;
        Bytes value;
        encode_key(row, key);
        encode_value(row, value);
        REQUIRE(key.size() <= 511); // LMDB's limit
        const auto back = decode(key, value);
        REQUIRE(back);
        REQUIRE(*back == row);
    }
}

TEST_CASE("records: keys sort by name, family, address, port") {
    const auto key_of = [](Row row) {
        Bytes key;
        encode_key(row, key);
        return key;
    };
    Row row = row_of(1);
    Row later = row_of(2);
    CHECK(key_of(row) < key_of(later));
    later = row;
    later.port = 256; // big-endian
    CHECK(key_of(row) < key_of(later));
    later = row;
    later.address = test::prefix("2001:db8::1");
    CHECK(key_of(row) < key_of(later));
}

TEST_CASE("records: what is too long is cut, and still a record") {
    Row row = row_of(1);
    row.name = std::string(100, 'n');
    row.reason = std::string(1000, 'r');
    row.id = std::string(1000, 'i');
    row.history.resize(100);
    Bytes key;
    Bytes value;
    encode_key(row, key);
    encode_value(row, value);
    const auto back = decode(key, value);
    REQUIRE(back);
    CHECK(back->name.size() == max_name);
    CHECK(back->reason.size() == max_reason);
    CHECK(back->id.size() == 255);
    CHECK(back->history.size() == max_history);
}

TEST_CASE("records: every cut and every other version is refused; mutations never crash") {
    RandomRows random;
    for (int i = 0; i < 300; ++i) {
        const Row row = random.next();
        Bytes key;
        Bytes value;
        encode_key(row, key);
        encode_value(row, value);
        for (std::size_t size = 0; size < key.size(); ++size) {
            REQUIRE_FALSE(decode(std::span(key).first(size), value));
        }
        for (std::size_t size = 0; size < value.size(); ++size) {
            REQUIRE_FALSE(decode(key, std::span(value).first(size)));
        }
        for (int version = 0; version < 256; ++version) {
            Bytes other_key = key;
            Bytes other_value = value;
            other_key[1] = other_value[0] = static_cast<std::uint8_t>(version);
            REQUIRE(decode(other_key, value).has_value() == (version == key[1]));
            REQUIRE(decode(key, other_value).has_value() == (version == value[0]));
        }
        for (int round = 0; round < 200; ++round) {
            Bytes key2 = key;
            Bytes value2 = value;
            Bytes& target = round % 2 == 0 ? key2 : value2;
            target[random() % target.size()] = static_cast<std::uint8_t>(random());
            const auto back = decode(key2, value2);
            if (back) { // what is taken is sane
                REQUIRE(back->name.size() <= max_name);
                REQUIRE_FALSE(back->name.empty());
                REQUIRE(back->history.size() <= max_history);
                REQUIRE(static_cast<int>(back->state) <= 2);
                REQUIRE(Prefix::around(back->address.base, back->address.length) == back->address);
            }
        }
        Bytes noise(random() % 200);
        for (auto& byte : noise) {
            byte = static_cast<std::uint8_t>(random());
        }
        [[maybe_unused]] const auto from_noise = decode(noise, noise);
        value.push_back(0);
        REQUIRE_FALSE(decode(key, value)); // trailing bytes
    }
}

TEST_CASE("env: a new database is made, is empty, and keeps what it is told of the boot") {
    const Folder folder;
    {
        const Env env = opened(folder / "db");
        CHECK(rows_in(env).empty());
        CHECK(*env.meta("boot") == "");
        CHECK(env.set_meta("boot", "one"));
    }
    const Env again = opened(folder / "db");
    CHECK(*again.meta("boot") == "one");
}

TEST_CASE("env: reading needs a database that is there; a second owner is refused, a reader not") {
    const Folder folder;
    CHECK_FALSE(open_error(folder / "nothing", Env::Mode::read_only).empty());
    CHECK_FALSE(std::filesystem::exists(folder / "nothing/data.mdb"));
    CHECK_FALSE(open_error(folder / "a/b/c", Env::Mode::read_write).empty());
    const Env env = opened(folder / "db");
    const auto second = open_error(folder / "db", Env::Mode::read_write);
    INFO(second);
    CHECK(second.find("another egressd") != std::string::npos);
    CHECK(open_error(folder / "db", Env::Mode::read_only) == "");
}

TEST_CASE("env: damaged files are errors that say so, and stay as they are") {
    const Folder folder;
    const std::string directory = folder / "db";
    const std::string file = directory + "/data.mdb";
    write_rows(directory, 5000);
    const auto size = std::filesystem::file_size(file);
    const auto check_refused = [&](const char* what, const char* text) {
        for (const auto mode : {Env::Mode::read_only, Env::Mode::read_write}) {
            const auto error = open_error(directory, mode);
            INFO(what, ": ", error);
            CHECK(error.find(text) != std::string::npos);
            CHECK(error.find(directory) != std::string::npos);
        }
    };
    SUBCASE("truncated") {
        for (const auto part : {size / 2, std::uintmax_t{8192}, std::uintmax_t{12288}}) {
            std::filesystem::resize_file(file, part);
            check_refused("truncated", "truncated");
            CHECK(std::filesystem::file_size(file) == part);
        }
    }
    SUBCASE("garbage") {
        overwrite(file, std::string(100'000, 'x'));
        check_refused("garbage", "not an egress database");
        CHECK(std::filesystem::file_size(file) == 100'000);
    }
    SUBCASE("a few bytes") {
        overwrite(file, "hello");
        check_refused("short", "");
        CHECK(std::filesystem::file_size(file) == 5);
    }
}

TEST_CASE("env: another format and foreign tables are refused by name") {
    const Folder folder;
    const std::string directory = folder / "db";
    const auto put = [&](const char* table, std::string key, std::string value) {
        std::filesystem::create_directory(directory);
        MDB_env* env = nullptr;
        REQUIRE(mdb_env_create(&env) == 0);
        mdb_env_set_maxdbs(env, 4);
        REQUIRE(mdb_env_open(env, directory.c_str(), 0, 0600) == 0);
        MDB_txn* txn = nullptr;
        REQUIRE(mdb_txn_begin(env, nullptr, 0, &txn) == 0);
        MDB_dbi dbi = 0;
        REQUIRE(mdb_dbi_open(txn, table, MDB_CREATE, &dbi) == 0);
        MDB_val k{key.size(), key.data()};
        MDB_val v{value.size(), value.data()};
        REQUIRE(mdb_put(txn, dbi, &k, &v, 0) == 0);
        REQUIRE(mdb_txn_commit(txn) == 0);
        mdb_env_close(env);
    };
    SUBCASE("a later format") {
        write_rows(directory, 3);
        put("meta", "format", "3");
        for (const auto mode : {Env::Mode::read_only, Env::Mode::read_write}) {
            CHECK(open_error(directory, mode).find("format 3") != std::string::npos);
        }
    }
    SUBCASE("a database that egressd did not make") {
        put("other", "a", "b");
        CHECK(open_error(directory, Env::Mode::read_only).find("not made by egressd") !=
              std::string::npos);
    }
    SUBCASE("what another program writes") {
        write_rows(directory, 3);
        put("rows", std::string("r\x02", 2), "x");
        const auto error = open_error(directory, Env::Mode::read_write);
        INFO(error);
        CHECK(error.find("number 3, and number 2 was written last") != std::string::npos);
    }
}

TEST_CASE("store: puts, deletions and the last word in a batch") {
    const Folder folder;
    {
        const auto store = started(folder / "db");
        CHECK(store->idle());
        CHECK_FALSE(store->take_outcome());
        Batch batch;
        batch.put(row_of(1));
        batch.put(row_of(2));
        batch.put(row_of(3));
        store->submit(batch);
        CHECK(batch.empty());
        CHECK_FALSE(store->idle());
        pollfd wake{store->fd(), POLLIN, 0};
        REQUIRE(poll(&wake, 1, 30'000) == 1);
        const auto outcome = store->take_outcome();
        REQUIRE(outcome);
        CHECK(outcome->durable);
        CHECK(store->idle());
        Row changed = row_of(2);
        changed.count = 99;
        batch.erase(row_of(1)); // gone
        batch.put(row_of(2));
        batch.erase(row_of(2));
        batch.put(changed); // put, erased, put: there
        batch.put(row_of(3));
        batch.erase(row_of(3));  // put, erased: gone
        batch.erase(row_of(77)); // was never there
        Batch tail;
        tail.put(row_of(4));
        tail.erase(row_of(5));
        batch.append(tail);
        CHECK(batch.size() == 9);
        store->submit(batch);
        CHECK(store->wait().durable);
    }
    const auto rows = rows_in(opened(folder / "db"));
    REQUIRE(rows.size() == 2);
    CHECK(rows.at("10.0.0.2").count == 99);
    CHECK(rows.at("10.0.0.4").count == 4);
}

TEST_CASE("store: random batches leave what a map says") {
    const Folder folder;
    std::map<std::string, std::uint32_t> truth;
    std::mt19937 random(29);
    {
        const auto store = started(folder / "db");
        Batch batch;
        for (int commit = 0; commit < 60; ++commit) {
            for (int i = 0; i < 200; ++i) {
                Row row = row_of(static_cast<std::uint32_t>(random() % 300));
                if (random() % 3 == 0) {
                    batch.erase(row);
                    truth.erase(row.address.text());
                } else {
                    row.count = static_cast<std::uint32_t>(random());
                    batch.put(row);
                    truth[row.address.text()] = row.count;
                }
            }
            store->submit(batch);
            REQUIRE(store->wait().durable);
        }
    }
    std::map<std::string, std::uint32_t> found;
    for (const auto& [address, row] : rows_in(opened(folder / "db"))) {
        found[address] = row.count;
    }
    CHECK(found == truth);
}

TEST_CASE("store: a failed commit is told, nothing is pretended, and trying again makes it good") {
    // In a child, because the limit on file size is the process's.
    const Folder folder;
    const pid_t pid = fork();
    if (pid == 0) {
        std::signal(SIGXFSZ, SIG_IGN);
        auto env = Env::open(folder / "db", Env::Mode::read_write);
        auto store = Store::start(std::move(*env));
        const auto big = [](Batch& batch, std::uint32_t from) {
            for (std::uint32_t i = from; i < from + 20'000; ++i) {
                batch.put(row_of(i));
            }
        };
        rlimit limit{256 << 10, RLIM_INFINITY};
        setrlimit(RLIMIT_FSIZE, &limit);
        Batch batch;
        big(batch, 0);
        (*store)->submit(batch);
        const auto failed = (*store)->wait();
        if (failed.durable || failed.error.empty() || (*store)->idle()) {
            _exit(10);
        }
        std::size_t rows = 0;
        if (!(*store)->env().each([&](Row&&) { return ++rows > 0; }) || rows != 0) {
            _exit(11);
        }
        (*store)->retry();
        if ((*store)->wait().durable) { // still no room
            _exit(12);
        }
        limit.rlim_cur = RLIM_INFINITY;
        setrlimit(RLIMIT_FSIZE, &limit);
        (*store)->retry();
        if (!(*store)->wait().durable || !(*store)->idle()) {
            _exit(13);
        }
        big(batch, 20'000);
        (*store)->submit(batch);
        _exit((*store)->wait().durable ? 0 : 14);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK(rows_in(opened(folder / "db")).size() == 40'000);
}

TEST_CASE("store: kill -9 of the writer at any moment loses nothing that was called durable") {
    for (int round = 0; round < 12; ++round) {
        const Folder folder;
        std::array<int, 2> ends{};
        REQUIRE(pipe(ends.data()) == 0);
        const pid_t pid = fork();
        if (pid == 0) {
            auto env = Env::open(folder / "db", Env::Mode::read_write);
            auto store = Store::start(std::move(*env));
            Batch batch;
            for (std::uint32_t number = 0;; ++number) {
                for (std::uint32_t i = 0; i < 20; ++i) {
                    batch.put(row_of(number * 20 + i));
                }
                if (number >= 3) { // what fell away must stay away too
                    batch.erase(row_of((number - 3) * 20));
                }
                (*store)->submit(batch);
                if (!(*store)->wait().durable ||
                    write(ends[1], &number, sizeof number) != sizeof number) {
                    _exit(1);
                }
            }
        }
        close(ends[1]);
        std::uint32_t last = 0;
        const auto wanted = static_cast<std::uint32_t>(1 + round * 3);
        do {
            REQUIRE(read(ends[0], &last, sizeof last) == sizeof last);
        } while (last < wanted);
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
        while (read(ends[0], &last, sizeof last) == sizeof last) {
        }
        close(ends[0]);
        std::set<std::uint32_t> found;
        for (const auto& [address, row] : rows_in(opened(folder / "db"))) {
            found.insert(row.count);
        }
        for (std::uint32_t number = 0; number <= last; ++number) {
            for (std::uint32_t i = 0; i < 20; ++i) {
                const bool erased = i == 0 && number + 3 <= last;
                const bool may = i == 0 && number + 3 == last + 1; // the batch under way
                if (!may) {
                    REQUIRE(found.contains(number * 20 + i) == !erased);
                }
            }
        }
        // The batch under way is there whole or not at all.
        const auto more = std::count_if(found.begin(), found.end(), [&](std::uint32_t count) {
            return count >= (last + 1) * 20;
        });
        CHECK((more == 0 || more == 20));
    }
}

TEST_CASE("store: a full file system is an error, and mending it is enough") {
    const Folder folder;
    const std::string mount_point = folder / "small";
    std::filesystem::create_directory(mount_point);
    const pid_t pid = fork();
    if (pid == 0) {
        if (unshare(CLONE_NEWNS) != 0 ||
            mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=1m") != 0) {
            _exit(77);
        }
        auto env = Env::open(mount_point + "/db", Env::Mode::read_write);
        if (!env) {
            _exit(9);
        }
        auto store = Store::start(std::move(*env));
        Batch batch;
        for (std::uint32_t i = 0; i < 40'000; ++i) {
            batch.put(row_of(i));
        }
        (*store)->submit(batch);
        if ((*store)->wait().durable) {
            _exit(10);
        }
        if (mount("tmpfs", mount_point.c_str(), "tmpfs", MS_REMOUNT, "size=64m") != 0) {
            _exit(11);
        }
        (*store)->retry();
        if (!(*store)->wait().durable) {
            _exit(12);
        }
        std::size_t rows = 0;
        const bool read = (*store)->env().each([&](Row&&) { return ++rows > 0; }).has_value();
        _exit(read && rows == 40'000 ? 0 : 13);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    REQUIRE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        MESSAGE("SKIP: no right to mount a small file system");
        return;
    }
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("env: clear empties the rows and nothing else") {
    const Folder folder;
    write_rows(folder / "db", 100);
    Env env = opened(folder / "db");
    CHECK(env.set_meta("boot", "b"));
    CHECK(env.clear());
    CHECK(rows_in(env).empty());
    CHECK(*env.meta("boot") == "b");
}

TEST_CASE("epoch: stored seconds stay valid when the wall clock is set, and in the next boot") {
    using store::Epoch;
    const auto first = Epoch::at_start("", "a", 1'000);
    CHECK(first == Epoch{"a", 1'000, 0});
    const auto later = Epoch::at_start(first.text(), "a", 4'600); // an hour forward
    CHECK(later == Epoch{"a", 1'000, 3'600});
    CHECK(later.to_wall("a", 4'600) == 3'600);
    CHECK(later.to_wall("a", 1'000) == 0); // set back since the daemon wrote it
    const auto next = Epoch::at_start(later.text(), "b", 9'000);
    CHECK(next == Epoch{"b", 5'400, 3'600});
    CHECK(later.to_wall("b", 9'000) == 3'600); // no daemon has run in this boot
    for (const char* const damaged : {"", "a", "a 1", "a b c", "a 99999999999999999999 1"}) {
        CHECK_FALSE(Epoch::parse(damaged));
    }
    store::Row row;
    row.last = 5;
    row.until = store::until_forever;
    row.history = {{100, 1}};
    store::shift_times(row, -50);
    CHECK(row.last == 1); // never 0, which means none
    CHECK(row.since == 0);
    CHECK(row.until == store::until_forever);
    CHECK(row.history.front().time == 50);
}
