// Scattered rows go through the journal: whatever is there, on its way or in its place, a reader
// sees what was written last.
#include <csignal>
#include <filesystem>
#include <map>
#include <random>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core_test.h"
#include "daemon/store/store.h"

using namespace egress;
using namespace egress::store;
using test::Folder;

namespace {

constexpr std::uint32_t many = 40'000; ///< rows of a table that is large enough for the journal
constexpr std::uint32_t stride = 2'654'435'761U;

/// Row number i lies far from its neighbours.
Row row_of(std::uint32_t number, std::uint32_t count) {
    const std::uint32_t place = number * stride;
    const std::array<std::uint8_t, 4> bytes = {
        static_cast<std::uint8_t>(place >> 24), static_cast<std::uint8_t>(place >> 16),
        static_cast<std::uint8_t>(place >> 8), static_cast<std::uint8_t>(place)};
    Row row;
    row.name = "egress";
    row.address = Prefix::host(*Address::from_bytes(bytes));
    row.protocol = 6;
    row.port = 22;
    row.count = count;
    row.until = 4'000'000'000;
    return row;
}

using Truth = std::map<Address, std::uint32_t>; ///< counts

/// As on a disk that is full: files of this process grow no further, for a while.
class SizeLimit {
  public:
    explicit SizeLimit(std::size_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
        getrlimit(RLIMIT_FSIZE, &before_);
        const rlimit tight{bytes, before_.rlim_max};
        setrlimit(RLIMIT_FSIZE, &tight);
    }
    ~SizeLimit() {
        setrlimit(RLIMIT_FSIZE, &before_);
        (void)std::signal(SIGXFSZ, signal_);
    }
    SizeLimit(const SizeLimit&) = delete;
    SizeLimit& operator=(const SizeLimit&) = delete;

  private:
    rlimit before_{};
    void (*signal_)(int);
};

class World {
  public:
    explicit World(std::uint32_t rows = many) {
        open();
        for (std::uint32_t i = 0; i < rows; ++i) {
            put(i, 1);
        }
        commit();
    }
    void open() {
        store_.reset();
        auto env = Env::open(directory(), Env::Mode::read_write);
        INFO((env ? "" : env.error().text));
        REQUIRE(env);
        auto store = Store::start(std::move(*env));
        REQUIRE(store);
        store_ = std::move(*store);
    }
    void put(std::uint32_t number, std::uint32_t count) {
        const Row row = row_of(number, count);
        batch_.put(row);
        truth[row.address.base] = count;
    }
    void erase(std::uint32_t number) {
        const Row row = row_of(number, 0);
        batch_.erase(row);
        truth.erase(row.address.base);
    }
    /// The commit cannot write, and what it was to do is asked for again.
    void commit_in_vain() {
        {
            const SizeLimit limit(4096);
            store_->submit(batch_);
            REQUIRE_FALSE(store_->wait().durable);
        }
        store_->retry();
        REQUIRE(store_->wait().durable);
    }
    /// The commit, while the file may not grow by more than that; how many tries it took.
    int commit_with_room(std::size_t bytes, int most_tries) {
        const SizeLimit limit(std::filesystem::file_size(directory() + "/data.mdb") + bytes);
        store_->submit(batch_);
        for (int tries = 1; tries <= most_tries; ++tries) {
            if (store_->wait().durable) {
                return tries;
            }
            store_->retry();
        }
        return most_tries + 1;
    }
    void commit() {
        store_->submit(batch_);
        const auto outcome = store_->wait();
        INFO(outcome.error);
        REQUIRE(outcome.durable);
    }
    /// As another process reads beside the writer.
    Truth read() const {
        Truth out;
        const auto env = Env::open(directory(), Env::Mode::read_only);
        REQUIRE(env);
        Address last;
        bool in_order = true;
        const auto read = env->each([&](Row&& row) {
            in_order = in_order && (out.empty() || last < row.address.base);
            last = row.address.base;
            out.emplace(row.address.base, row.count);
            return true;
        });
        INFO((read ? "" : read.error().text));
        REQUIRE(read);
        CHECK(in_order);
        return out;
    }
    std::string directory() const { return folder_ / "db"; }
    std::size_t entries(TableId table) const {
        MDB_txn* txn = nullptr;
        MDB_stat stat{};
        REQUIRE(mdb_txn_begin(store_->env().handle(), nullptr, MDB_RDONLY, &txn) == 0);
        REQUIRE(mdb_stat(txn, store_->env().handles()[table], &stat) == 0);
        mdb_txn_abort(txn);
        return stat.ms_entries;
    }
    std::size_t journaled() const {
        return entries(TableId::journal_a) + entries(TableId::journal_b);
    }
    Store& store() { return *store_; }
    void close() { store_.reset(); }

    Truth truth;

  private:
    Folder folder_;
    Batch batch_;
    std::unique_ptr<Store> store_;
};

} // namespace

TEST_CASE("journal: what lies together goes straight into the table, scattered rows do not") {
    World world;
    CHECK(world.journaled() == 0); // the first rows: an empty table has no places far apart
    for (std::uint32_t i = 0; i < 1000; ++i) {
        world.put(i, 2);
    }
    world.commit();
    const auto pieces = world.journaled();
    CHECK(pieces > 1000 / 60);
    CHECK(pieces < 1000 / 15);
    CHECK(world.read() == world.truth);
    world.put(1, 3); // few, and little is in the journal: that moves, and these go to their places
    world.commit();
    CHECK(world.journaled() == 0);
    CHECK(world.read() == world.truth);
    for (std::uint32_t i = 0; i < 5; ++i) {
        world.put(many + i, 7);
        world.erase(i);
    }
    world.commit();
    CHECK(world.journaled() == 0);
    CHECK(world.read() == world.truth);
}

TEST_CASE("journal: random batches leave what a map says, at every moment and after every start") {
    World world;
    std::mt19937 random(41);
    std::size_t most = 0;
    std::size_t moves = 0;
    std::size_t before = 0;
    for (int commit = 0; commit < 70; ++commit) {
        const std::uint32_t rows = commit % 10 == 9 ? random() % 50 : 500 + random() % 2000;
        for (std::uint32_t i = 0; i < rows; ++i) {
            const auto number = static_cast<std::uint32_t>(random() % (many + many / 4));
            if (random() % 5 == 0) {
                world.erase(number);
            } else {
                world.put(number, static_cast<std::uint32_t>(random()));
            }
        }
        world.commit();
        const std::size_t now = world.journaled();
        moves += now < before ? 1 : 0;
        before = now;
        most = std::max(most, now);
        if (commit % 9 == 0) {
            world.open(); // also in the midst of a move
        }
        if (commit % 8 == 0) {
            REQUIRE(world.read() == world.truth);
        }
    }
    CHECK(most > 2 * Journal::least_pages * 3 / 2); // it was full
    CHECK(moves > 1);
    CHECK(world.read() == world.truth);
    world.close();
    const auto env = Env::open(world.directory(), Env::Mode::read_write);
    REQUIRE(env);
    CHECK(env->findings().sound());
}

TEST_CASE("journal: a commit that fails moves nothing, and another try makes it good") {
    World world;
    for (std::uint32_t commit = 0; commit < 24; ++commit) { // fills it, and moves all of it
        for (std::uint32_t i = 0; i < 1000; ++i) {
            world.put(commit * 1000 + i, 2 + commit);
        }
        if (commit % 2 == 0) {
            world.commit();
        } else {
            world.commit_in_vain();
        }
    }
    CHECK(world.journaled() < 24 * 1000 / 30); // it was moved
    CHECK(world.read() == world.truth);
}

TEST_CASE("journal: with room for what is new and none for a move, what is new is durable") {
    constexpr std::size_t page = 4096;
    World world;
    std::uint32_t commit = 0;
    const auto change = [&](std::uint32_t rows) {
        for (std::uint32_t i = 0; i < rows; ++i) {
            world.put(commit * 1000 + i, 2 + commit);
        }
        ++commit;
    };
    int tries = 1;
    for (; tries == 1 && commit < 30; tries = world.commit_with_room(120 * page, 3)) {
        change(1000);
    }
    CHECK(tries == 2); // the first try was to move a part of the journal, too
    CHECK(world.journaled() > Journal::least_pages);
    CHECK(world.read() == world.truth);
    std::size_t moves = 0;
    for (int more = 0; more < 20; ++more) { // with room again
        const auto before = world.journaled();
        change(1000);
        world.commit();
        moves += world.journaled() < before ? 1 : 0;
    }
    CHECK(moves > 0);
    CHECK(world.read() == world.truth);
}

TEST_CASE("journal: commits of one row after a flood empty it, and stay bounded meanwhile") {
    World world;
    for (std::uint32_t turn = 0; turn < 12; ++turn) {
        for (std::uint32_t i = 0; i < 1000; ++i) {
            world.put(turn * 1000 + i, 2 + turn);
        }
        world.commit();
    }
    const auto flood = world.journaled();
    REQUIRE(flood > Journal::few_pages * 2);
    std::size_t commits = 0;
    for (; world.journaled() > 0 && commits < Journal::most_runs + 50; ++commits) {
        world.put(static_cast<std::uint32_t>(commits) * 31, 99);
        world.commit();
        REQUIRE(world.journaled() < flood + Journal::most_runs);
    }
    CHECK(world.journaled() == 0);
    CHECK(commits > Journal::most_runs / 2);
    CHECK(world.read() == world.truth);
}

TEST_CASE("journal: a damaged piece is set aside and named, and its rows are those of before") {
    World world;
    for (std::uint32_t i = 0; i < 1000; ++i) {
        world.put(i, 2);
    }
    world.commit();
    { // what the disk does
        const Store& store = world.store();
        const auto table =
            world.entries(TableId::journal_a) > 0 ? TableId::journal_a : TableId::journal_b;
        MDB_txn* txn = nullptr;
        MDB_cursor* cursor = nullptr;
        MDB_val key{};
        MDB_val value{};
        REQUIRE(mdb_txn_begin(store.env().handle(), nullptr, 0, &txn) == 0);
        REQUIRE(mdb_cursor_open(txn, store.env().handles()[table], &cursor) == 0);
        REQUIRE(mdb_cursor_get(cursor, &key, &value, MDB_FIRST) == 0);
        const View whole = view_of(value);
        Bytes bytes(whole.begin(), whole.end());
        bytes[bytes.size() / 2] ^= 1;
        MDB_val broken = value_of(bytes);
        REQUIRE(mdb_cursor_put(cursor, &key, &broken, MDB_CURRENT) == 0);
        const MDB_dbi main = store.env().handles().main;
        key = value_of(seal_key);
        REQUIRE(mdb_get(txn, main, &key, &value) == 0);
        auto seal = decode_seal(view_of(value));
        REQUIRE(seal);
        seal->transaction = mdb_txn_id(txn); // as if it had been written so
        const Bytes fresh = encode(*seal);
        value = value_of(fresh);
        REQUIRE(mdb_put(txn, main, &key, &value, 0) == 0);
        REQUIRE(mdb_txn_commit(txn) == 0);
    }
    const auto check_rows = [&] {
        std::size_t older = 0;
        for (const auto& [address, count] : world.read()) {
            REQUIRE(world.truth.contains(address));
            const bool is_older = count == 1 && world.truth[address] == 2;
            REQUIRE((is_older || count == world.truth[address]));
            older += is_older ? 1 : 0;
        }
        CHECK(older > 10);
        CHECK(older < 70);
    };
    SUBCASE("found when it is moved") {
        world.put(1, 3);
        world.commit();
        CHECK(world.journaled() == 0);
        CHECK(world.store().damaged() == 1);
        check_rows();
        world.close();
        const auto env = Env::open(world.directory(), Env::Mode::read_write);
        REQUIRE(env);
        CHECK(env->findings().sound());
        CHECK(env->set_aside() == 1);
    }
    SUBCASE("found at the start") {
        world.close();
        {
            const auto reader = Env::open(world.directory(), Env::Mode::read_only);
            REQUIRE(reader);
            std::vector<Damage> damages;
            CHECK(reader->each([](Row&&) { return true; },
                               [&](Damage&& damage) { damages.push_back(std::move(damage)); }));
            REQUIRE(damages.size() == 1);
            CHECK(name_of(damages[0]).find("some rows are those of before") != std::string::npos);
        }
        const auto env = Env::open(world.directory(), Env::Mode::read_write);
        REQUIRE(env);
        CHECK(env->findings().damaged == 1);
        REQUIRE(env->findings().notes.size() == 1);
        CHECK(env->findings().notes[0].find("journal") != std::string::npos);
        CHECK(env->set_aside() == 1);
        check_rows();
    }
}

TEST_CASE("journal: no flipped bit is taken for another state") {
    World world(6'000);
    for (std::uint32_t i = 0; i < 3'000; ++i) {
        world.put(i, 2);
        if (i % 100 == 99) {
            world.commit();
        }
    }
    REQUIRE(world.journaled() > 3'000 / 60);
    world.close();
    std::ifstream in(world.directory() + "/data.mdb", std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    enum Fate : int { same, told, refused, silent, crashed, fates };
    const auto fate_of = [&](const std::string& directory) {
        if (!probe(directory)) {
            return refused;
        }
        const auto env = Env::open(directory, Env::Mode::read_write);
        if (!env) {
            return refused;
        }
        bool differs = false;
        bool wrong = false;
        std::size_t rows = 0;
        const auto read = env->each([&](Row&& row) {
            const auto there = world.truth.find(row.address.base);
            differs = differs || there == world.truth.end() || there->second != row.count;
            wrong = wrong || there == world.truth.end() || (row.count != 1 && row.count != 2);
            return ++rows > 0;
        });
        differs = differs || rows != world.truth.size();
        return !read || wrong || (differs && env->findings().notes.empty()) ? silent
               : differs                                                    ? told
                                                                            : same;
    };
    std::mt19937 random(8);
    std::array<int, fates> found{};
    const char* const most = std::getenv("EGRESS_FLIPS");
    const int flips = most != nullptr ? std::atoi(most) : 40;
    for (int i = 0; i < flips; ++i) {
        constexpr std::size_t heads = std::size_t{2} * 4096; // LMDB's own two pages
        const std::size_t bit = heads * 8 + random() % ((bytes.size() - heads) * 8);
        const Folder folder;
        std::string broken = bytes;
        broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << bit % 8));
        std::filesystem::create_directory(folder / "db");
        std::ofstream(folder / "db/data.mdb", std::ios::binary) << broken;
        const pid_t pid = fork();
        if (pid == 0) {
            for (const int crash : {SIGBUS, SIGSEGV, SIGABRT}) {
                (void)std::signal(crash, SIG_DFL);
            }
            _exit(fate_of(folder / "db"));
        }
        int status = 0;
        waitpid(pid, &status, 0);
        const int fate = WIFEXITED(status) ? WEXITSTATUS(status) : crashed;
        REQUIRE(fate < fates);
        ++found[static_cast<std::size_t>(fate)];
        INFO("bit ", bit % 8, " of byte ", bit / 8 % 4096, " of page ", bit / 8 / 4096);
        CHECK(fate <= refused);
    }
    CHECK(found[told] > flips / 40);
}

TEST_CASE("journal: kill -9 of the writer at any moment loses nothing that was called durable") {
    for (int round = 0; round < 6; ++round) {
        const Folder folder;
        std::array<int, 2> ends{};
        REQUIRE(pipe(ends.data()) == 0);
        const auto batch_number = [](Batch& batch, std::uint32_t number) {
            for (std::uint32_t i = 0; i < 3000; ++i) {
                batch.put(row_of((number * 3000 + i) % 20'000, number));
            }
        };
        const pid_t pid = fork();
        if (pid == 0) {
            auto env = Env::open(folder / "db", Env::Mode::read_write);
            auto store = Store::start(std::move(*env));
            Batch batch;
            for (std::uint32_t number = 0;; ++number) {
                batch_number(batch, number);
                (*store)->submit(batch);
                if (!(*store)->wait().durable ||
                    write(ends[1], &number, sizeof number) != sizeof number) {
                    _exit(1);
                }
            }
        }
        close(ends[1]);
        std::uint32_t last = 0;
        const auto wanted = static_cast<std::uint32_t>(12 + round * 3); // some are in a move
        do {
            REQUIRE(read(ends[0], &last, sizeof last) == sizeof last);
        } while (last < wanted);
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
        while (read(ends[0], &last, sizeof last) == sizeof last) {
        }
        close(ends[0]);
        const auto truth_at = [](std::uint32_t number) {
            Truth out;
            for (std::uint32_t batch = 0; batch <= number; ++batch) {
                for (std::uint32_t i = 0; i < 3000; ++i) {
                    out[row_of((batch * 3000 + i) % 20'000, 0).address.base] = batch;
                }
            }
            return out;
        };
        Truth found;
        const auto env = Env::open(folder / "db", Env::Mode::read_write);
        REQUIRE(env);
        CHECK(env->findings().sound());
        REQUIRE(env->each([&](Row&& row) {
            found[row.address.base] = row.count;
            return true;
        }));
        // The batch under way is there whole or not at all.
        CHECK((found == truth_at(last) || found == truth_at(last + 1)));
    }
}

TEST_CASE("format 2: a database without a journal is read, and gets one") {
    World world(500);
    world.close();
    {
        MDB_env* env = nullptr;
        MDB_txn* txn = nullptr;
        REQUIRE(mdb_env_create(&env) == 0);
        mdb_env_set_maxdbs(env, 8);
        REQUIRE(mdb_env_open(env, world.directory().c_str(), 0, 0600) == 0);
        REQUIRE(mdb_txn_begin(env, nullptr, 0, &txn) == 0);
        const auto table = [&](const char* name) {
            MDB_dbi dbi = 0;
            REQUIRE(mdb_dbi_open(txn, name, 0, &dbi) == 0);
            return dbi;
        };
        const auto put = [&](MDB_dbi dbi, std::string_view key, const Bytes& bytes) {
            MDB_val k = value_of(key);
            MDB_val v = value_of(bytes);
            REQUIRE(mdb_put(txn, dbi, &k, &v, 0) == 0);
        };
        for (const auto id : journals) {
            REQUIRE(mdb_drop(txn, table(name(id)), 1) == 0);
        }
        const auto main = table(nullptr);
        MDB_val key = value_of(seal_key);
        MDB_val value{};
        REQUIRE(mdb_get(txn, main, &key, &value) == 0);
        auto seal = decode_seal(view_of(value));
        REQUIRE(seal);
        const auto format = [](std::string_view text) {
            Bytes out(text.begin(), text.end());
            append_checksum(view_of("format"), out);
            return out;
        };
        (*seal)[TableId::meta].remove(checksum_of(format(format_journaled)));
        (*seal)[TableId::meta].add(checksum_of(format(format_sealed)));
        put(table("meta"), "format", format(format_sealed));
        Bytes old; // as version 1 of the seal was written
        store::put(old, 1, 1);
        store::put(old, mdb_txn_id(txn), 8);
        for (const auto& sum : std::span(seal->of).first(3)) {
            store::put(old, sum.count, 8);
            store::put(old, sum.sum, 8);
            store::put(old, sum.known ? 1 : 0, 1);
        }
        append_checksum(view_of(seal_key), old);
        put(main, seal_key, old);
        REQUIRE(mdb_txn_commit(txn) == 0);
        mdb_env_close(env);
    }
    {
        const auto reader = Env::open(world.directory(), Env::Mode::read_only);
        REQUIRE(reader);
        CHECK(reader->format() == Format::sealed);
    }
    CHECK(world.read() == world.truth);
    for (int opening = 0; opening < 2; ++opening) {
        const auto env = Env::open(world.directory(), Env::Mode::read_write);
        INFO((env ? "" : env.error().text));
        REQUIRE(env);
        CHECK(env->format() == Format::journaled);
        CHECK(env->findings().sound());
        CHECK(world.read() == world.truth);
    }
    world.open();
    for (std::uint32_t i = 0; i < 200; ++i) {
        world.put(i, 5);
    }
    world.commit();
    CHECK(world.read() == world.truth);
}
