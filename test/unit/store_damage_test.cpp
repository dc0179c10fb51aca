// A database in which bits flip: what is read is what was written, or is said to be damaged.
#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <random>

#include <sys/wait.h>
#include <unistd.h>

#include "core_test.h"
#include "daemon/store/checksum.h"
#include "daemon/store/store.h"

using namespace egress;
using namespace egress::store;
using test::Folder;

namespace {

constexpr std::string_view trial_text = R"({"name":"t","text":"[egress]","until":1})";

Row row_of(std::uint32_t number) {
    Row row;
    row.name = "egress";
    const std::array<std::uint8_t, 4> bytes = {10, static_cast<std::uint8_t>(number >> 16),
                                               static_cast<std::uint8_t>(number >> 8),
                                               static_cast<std::uint8_t>(number)};
    row.address = Prefix::host(*Address::from_bytes(bytes));
    row.protocol = 6;
    row.port = 22;
    row.state = number % 3 == 0 ? State::blocked : State::counting;
    row.count = number;
    row.until = 4'000'000'000;
    row.reason = number % 2 == 0 ? "by hand" : "";
    return row;
}

EventRow event_of(std::uint32_t number) {
    EventRow row;
    row.uid = 1000 + number % 7;
    row.protocol = 6;
    row.port = static_cast<std::uint16_t>(number);
    row.address = test::address("192.0.2.1");
    row.program = "/usr/bin/curl";
    row.count = number + 1;
    row.first = row.last = 1'700'000'000;
    return row;
}

/// All that a database says.
struct Content {
    std::map<std::string, Row> rows;
    std::map<std::uint16_t, EventRow> events; ///< by port
    std::string boot;
    std::string trial;
    friend bool operator==(const Content&, const Content&) = default;
};

Result<Content> content_of(const Env& env) {
    Content out;
    auto read = env.each([&](Row&& row) {
        const auto key = row.address.text();
        out.rows.emplace(key, std::move(row));
        return true;
    });
    read = !read ? read : env.each_event([&](EventRow&& row) {
        out.events.emplace(row.port, std::move(row));
        return true;
    });
    if (!read) {
        return std::unexpected(read.error());
    }
    const auto boot = env.meta("boot");
    const auto trial = env.meta("trial");
    if (!boot || !trial) {
        return std::unexpected((boot ? trial : boot).error());
    }
    out.boot = *boot;
    out.trial = *trial;
    return out;
}

Content written(std::uint32_t rows, std::uint32_t events) {
    Content out{{}, {}, "a boot", std::string(trial_text)};
    for (std::uint32_t i = 0; i < rows; ++i) {
        out.rows.emplace(row_of(i).address.text(), row_of(i));
    }
    for (std::uint32_t i = 0; i < events; ++i) {
        out.events.emplace(event_of(i).port, event_of(i));
    }
    return out;
}

/// In several commits, so that the file has old pages beside the new ones.
void write(const std::string& directory, std::uint32_t rows, std::uint32_t events) {
    auto env = Env::open(directory, Env::Mode::read_write);
    REQUIRE(env);
    REQUIRE(env->set_meta("boot", "a boot"));
    auto store = Store::start(std::move(*env));
    REQUIRE(store);
    for (int commit = 4; commit >= 0; --commit) {
        Batch batch;
        for (std::uint32_t i = 0; i < rows; ++i) {
            Row row = row_of(i);
            row.count += static_cast<std::uint32_t>(commit);
            batch.put(row);
        }
        for (std::uint32_t i = 0; commit == 0 && i < events; ++i) {
            batch.count(event_of(i));
        }
        batch.set_meta("trial", std::string(trial_text));
        (*store)->submit(batch);
        REQUIRE((*store)->wait().durable);
    }
}

std::string bytes_of(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

/// A database over LMDB itself.
class Raw {
  public:
    explicit Raw(const std::string& directory) {
        std::filesystem::create_directory(directory);
        REQUIRE(mdb_env_create(&env_) == 0);
        mdb_env_set_maxdbs(env_, 8);
        mdb_env_set_mapsize(env_, std::size_t{64} << 20);
        REQUIRE(mdb_env_open(env_, directory.c_str(), 0, 0600) == 0);
        REQUIRE(mdb_txn_begin(env_, nullptr, 0, &txn_) == 0);
    }
    Raw(const Raw&) = delete;
    Raw& operator=(const Raw&) = delete;
    ~Raw() {
        REQUIRE(mdb_txn_commit(txn_) == 0);
        mdb_env_close(env_);
    }
    MDB_dbi table(const char* name) {
        MDB_dbi dbi = 0;
        REQUIRE(mdb_dbi_open(txn_, name, name == nullptr ? 0 : unsigned{MDB_CREATE}, &dbi) == 0);
        return dbi;
    }
    void put(const char* name, View key, View value) {
        MDB_val k = value_of(key);
        MDB_val v = value_of(value);
        REQUIRE(mdb_put(txn_, table(name), &k, &v, 0) == 0);
    }
    Bytes get(const char* name, View key) {
        MDB_val k = value_of(key);
        MDB_val v{};
        REQUIRE(mdb_get(txn_, table(name), &k, &v) == 0);
        const View bytes = view_of(v);
        return {bytes.begin(), bytes.end()};
    }
    /// As if all that is changed here had been written as it should.
    void reseal() {
        const auto seal = decode_seal(get(nullptr, view_of(seal_key)));
        REQUIRE(seal);
        Seal fresh = *seal;
        fresh.transaction = mdb_txn_id(txn_);
        put(nullptr, view_of(seal_key), encode(fresh));
    }
    void erase(const char* name, View key) {
        MDB_val k = value_of(key);
        REQUIRE(mdb_del(txn_, table(name), &k, nullptr) == 0);
    }

  private:
    MDB_env* env_ = nullptr;
    MDB_txn* txn_ = nullptr;
};

Bytes key_of(const Row& row) {
    Bytes out;
    encode_key(row, out);
    return out;
}

/// What became of a database in which something was changed.
enum class Fate : int {
    same,      ///< nothing differs
    set_aside, ///< something is missing, and exactly that is named
    refused,   ///< an error
    silent,    ///< something differs, and nothing says so
    broken,    ///< it was opened, and could not be used afterwards
    crashed,
};

bool is_part_of(const Content& found, const Content& truth) {
    const auto among = [](const auto& map, const auto& all) {
        return std::ranges::all_of(map, [&](const auto& entry) {
            const auto there = all.find(entry.first);
            return there != all.end() && there->second == entry.second;
        });
    };
    return among(found.rows, truth.rows) && among(found.events, truth.events) &&
           (found.boot.empty() || found.boot == truth.boot) &&
           (found.trial.empty() || found.trial == truth.trial);
}

std::size_t size_of(const Content& content) {
    return content.rows.size() + content.events.size() + (content.boot.empty() ? 0 : 1) +
           (content.trial.empty() ? 0 : 1);
}

/// As the daemon does: a child reads first, then it is opened, read, and written to.
Fate fate_of(const std::string& directory, const Content& truth) {
    if (!probe(directory)) {
        return Fate::refused;
    }
    auto env = Env::open(directory, Env::Mode::read_write);
    if (!env) {
        return env.error().text.find(directory) != std::string::npos ? Fate::refused : Fate::silent;
    }
    const auto found = content_of(*env);
    if (!found) {
        return Fate::silent; // what was opened for writing must be readable
    }
    const bool same = *found == truth;
    const auto missing = size_of(truth) - size_of(*found);
    std::size_t kept = 0;
    const auto counted = env->each_damaged([&](Damage&&) { ++kept; });
    if (!counted || !is_part_of(*found, truth) || (missing > 0) == same ||
        env->findings().damaged < missing || kept != env->findings().damaged ||
        (kept > 0 && env->findings().notes.empty())) {
        return Fate::silent;
    }
    auto store = Store::start(std::move(*env));
    Batch batch;
    for (const auto& [text, row] : truth.rows) {
        batch.put(row);
    }
    (*store)->submit(batch);
    if (!(*store)->wait().durable) {
        return Fate::broken;
    }
    store->reset();
    const auto again = Env::open(directory, Env::Mode::read_write);
    const auto then = again ? content_of(*again) : std::unexpected(again.error());
    if (!then || again->findings().damaged > 0 || !again->findings().notes.empty() ||
        then->rows != truth.rows || then->events != found->events) {
        return Fate::broken;
    }
    return same ? Fate::same : Fate::set_aside;
}

/// The same in a child of its own.
Fate fate_apart(const std::string& directory, const Content& truth) {
    const pid_t pid = fork();
    if (pid == 0) {
        for (const int crash : {SIGBUS, SIGSEGV, SIGABRT}) {
            (void)std::signal(crash, SIG_DFL);
        }
        _exit(static_cast<int>(fate_of(directory, truth)));
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? static_cast<Fate>(WEXITSTATUS(status)) : Fate::crashed;
}

/// Writes the file with some bits flipped, and asks for its fate.
Fate fate_with(std::string bytes, const std::vector<std::size_t>& bits, const Content& truth) {
    const Folder folder;
    for (const auto bit : bits) {
        bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    }
    std::filesystem::create_directory(folder / "db");
    std::ofstream(folder / "db/data.mdb", std::ios::binary) << bytes;
    return fate_apart(folder / "db", truth);
}

} // namespace

TEST_CASE("checksum: the standard's values, with and without the instruction") {
    const auto of = [](std::string_view text) { return crc32c(view_of(text)); };
    CHECK(of("123456789") == 0xe3069283);
    CHECK(of(std::string(32, '\0')) == 0x8a9136aa); // RFC 3720, B.4
    CHECK(of(std::string(32, '\xff')) == 0x62a8ab43);
    std::mt19937 random(3);
    for (std::size_t size = 0; size < 200; ++size) {
        Bytes bytes(size);
        for (auto& byte : bytes) {
            byte = static_cast<std::uint8_t>(random());
        }
        const View all(bytes);
        const auto whole = crc32c(all);
        CHECK(whole == crc32c_by_table(all));
        CHECK(whole == crc32c(all.subspan(size / 3), crc32c(all.first(size / 3))));
    }
}

TEST_CASE("checksum: every flipped bit of a row is seen, and so is another row's key") {
    const Row row = row_of(3);
    const Bytes key = key_of(row);
    Bytes value;
    encode_value(row, value);
    append_checksum(key, value);
    REQUIRE(checked(key, value));
    for (std::size_t bit = 0; bit < (key.size() + value.size()) * 8; ++bit) {
        Bytes other_key = key;
        Bytes other_value = value;
        auto& byte = bit / 8 < key.size() ? other_key[bit / 8] : other_value[bit / 8 - key.size()];
        byte = static_cast<std::uint8_t>(byte ^ (1 << bit % 8));
        REQUIRE_FALSE(checked(other_key, other_value));
    }
    CHECK_FALSE(checked(key_of(row_of(4)), value));
    // The same bytes, with one of the value's first in the key.
    Bytes longer = key;
    longer.push_back(value.front());
    CHECK_FALSE(checked(longer, View(value).subspan(1)));
}

TEST_CASE("damage: no flipped bit of the data pages gives a state that was never written") {
    const Folder folder;
    constexpr std::uint32_t rows = 300;
    constexpr std::uint32_t events = 60;
    write(folder / "db", rows, events);
    const auto truth = written(rows, events);
    const auto bytes = bytes_of(folder / "db/data.mdb");
    REQUIRE(fate_with(bytes, {}, truth) == Fate::same);
    const char* const most = std::getenv("EGRESS_FLIPS");
    const int flips = most != nullptr ? std::atoi(most) : 700;
    std::mt19937 random(8);
    std::map<Fate, int> fates;
    for (int i = 0; i < flips; ++i) {
        constexpr std::size_t heads = std::size_t{2} * 4096; // LMDB's own two pages
        const std::size_t bit = heads * 8 + random() % ((bytes.size() - heads) * 8);
        const Fate fate = fate_with(bytes, {bit}, truth);
        fates[fate] += 1;
        INFO("bit ", bit % 8, " of byte ", bit / 8 % 4096, " of page ", bit / 8 / 4096);
        CHECK(static_cast<int>(fate) <= static_cast<int>(Fate::refused));
    }
    MESSAGE(flips << " flips: " << fates[Fate::same] << " without effect, "
                  << fates[Fate::set_aside] << " rows set aside, " << fates[Fate::refused]
                  << " refused, " << fates[Fate::silent] << " silent, " << fates[Fate::broken]
                  << " broken, " << fates[Fate::crashed] << " crashed");
    CHECK(fates[Fate::set_aside] > flips / 20); // the flips did hit rows
}

TEST_CASE("damage: values that changed places are set aside, both, and kept with their bytes") {
    const Folder folder;
    write(folder / "db", 50, 5);
    auto truth = written(50, 5);
    const Bytes first = key_of(row_of(7));
    const Bytes second = key_of(row_of(8));
    Bytes values[2];
    {
        Raw raw(folder / "db");
        values[0] = raw.get("rows", first);
        values[1] = raw.get("rows", second);
        raw.put("rows", first, values[1]);
        raw.put("rows", second, values[0]);
        raw.reseal();
    }
    std::vector<Damage> named;
    {
        const auto env = Env::open(folder / "db", Env::Mode::read_only);
        REQUIRE(env);
        std::size_t rows = 0;
        CHECK(env->each([&](Row&&) { return ++rows > 0; },
                        [&](Damage&& damage) { named.push_back(std::move(damage)); }));
        CHECK(rows == 48);
        CHECK(named.size() == 2);
    }
    truth.rows.erase("10.0.0.7");
    truth.rows.erase("10.0.0.8");
    for (int opening = 0; opening < 2; ++opening) {
        const auto env = Env::open(folder / "db", Env::Mode::read_write);
        REQUIRE(env);
        CHECK(env->findings().damaged == (opening == 0 ? 2 : 0));
        CHECK(env->set_aside() == 2);
        CHECK(*content_of(*env) == truth);
        std::vector<Damage> aside;
        CHECK(env->each_damaged([&](Damage&& damage) { aside.push_back(std::move(damage)); }));
        REQUIRE(aside.size() == 2);
        CHECK(aside[0].table == "rows");
        CHECK(aside[0].key == first);
        CHECK(aside[0].value == values[1]);
        CHECK(aside[1].key == second);
        CHECK(aside[1].time > 1'700'000'000);
        if (opening == 0) {
            REQUIRE(env->findings().notes.size() == 2);
            CHECK(env->findings().notes[0].find("egress 10.0.0.7") != std::string::npos);
            CHECK(std::filesystem::exists(env->findings().kept));
        }
    }
}

TEST_CASE("damage: rows that went without a word, or came back from the past, are an error") {
    const Folder folder;
    write(folder / "db", 50, 5);
    const Bytes key = key_of(row_of(7));
    SUBCASE("gone") {
        Raw raw(folder / "db");
        raw.erase("rows", key);
        raw.reseal();
    }
    SUBCASE("older, with a good checksum") {
        Row before = row_of(7);
        before.count = 1;
        Bytes value;
        encode_value(before, value);
        append_checksum(key, value);
        Raw raw(folder / "db");
        raw.put("rows", key, value);
        raw.reseal();
    }
    SUBCASE("the last commit is missing") {
        Raw raw(folder / "db"); // its number is not the seal's
        raw.put("meta", view_of("other"), view_of("x"));
    }
    for (const auto mode : {Env::Mode::read_only, Env::Mode::read_write}) {
        const auto env = Env::open(folder / "db", mode);
        const auto read =
            env ? env->each([](Row&&) { return true; }) : Result<>(std::unexpected(env.error()));
        REQUIRE_FALSE(read);
        CHECK(read.error().text.find("is damaged: ") != std::string::npos);
        CHECK(read.error().text.find(folder / "db") != std::string::npos);
    }
}

TEST_CASE("damage: a row that is found damaged when it is replaced is kept, and told") {
    const Folder folder;
    write(folder / "db", 10, 5);
    const Bytes key = key_of(row_of(7));
    {
        auto env = Env::open(folder / "db", Env::Mode::read_write);
        REQUIRE(env);
        MDB_txn* txn = nullptr; // what the disk does meanwhile
        REQUIRE(mdb_txn_begin(env->handle(), nullptr, 0, &txn) == 0);
        MDB_val k = value_of(key);
        MDB_val v = value_of("nonsense");
        REQUIRE(mdb_put(txn, env->handles()[TableId::rows], &k, &v, 0) == 0);
        REQUIRE(mdb_txn_commit(txn) == 0);
        auto store = Store::start(std::move(*env));
        Batch batch;
        batch.put(row_of(7));
        (*store)->submit(batch);
        REQUIRE((*store)->wait().durable);
        CHECK((*store)->damaged() == 1);
    }
    const auto env = Env::open(folder / "db", Env::Mode::read_write);
    REQUIRE(env);
    CHECK(env->findings().sound());
    CHECK(env->set_aside() == 1);
    CHECK(content_of(*env)->rows == written(10, 5).rows);
}

TEST_CASE("format 1: rows without checksums are read, and written anew with them") {
    const Folder folder;
    const auto truth = written(5000, 5);
    {
        Raw raw(folder / "db");
        for (const auto& [text, row] : truth.rows) {
            Bytes value;
            encode_value(row, value);
            raw.put("rows", key_of(row), value);
        }
        for (const auto& [port, row] : truth.events) {
            Bytes key;
            Bytes value;
            encode_key(row, key);
            encode_value(row, value);
            raw.put("events", key, value);
        }
        raw.put("meta", view_of("format"), view_of("1"));
        raw.put("meta", view_of("boot"), view_of(truth.boot));
        raw.put("meta", view_of("trial"), view_of(truth.trial));
    }
    {
        const auto env = Env::open(folder / "db", Env::Mode::read_only);
        REQUIRE(env);
        CHECK(*content_of(*env) == truth);
    }
    for (int opening = 0; opening < 2; ++opening) {
        const auto env = Env::open(folder / "db", Env::Mode::read_write);
        INFO((env ? "" : env.error().text));
        REQUIRE(env);
        CHECK(*content_of(*env) == truth);
        CHECK(env->findings().upgraded == (opening == 0));
        CHECK(env->findings().damaged == 0);
        CHECK(env->format() == Format::journaled);
        CHECK_FALSE(std::filesystem::exists(folder / "db/data.mdb.damaged.1"));
        CHECK_FALSE(std::filesystem::exists(folder / "db/mend"));
    }
    Raw raw(folder / "db");
    CHECK(checked(key_of(row_of(3)), raw.get("rows", key_of(row_of(3)))));
}

TEST_CASE("format 1: what cannot be read is set aside, the rest is taken over") {
    const Folder folder;
    {
        Raw raw(folder / "db");
        Bytes value;
        encode_value(row_of(1), value);
        raw.put("rows", key_of(row_of(1)), value);
        value.pop_back();
        raw.put("rows", key_of(row_of(2)), value);
        raw.put("meta", view_of("format"), view_of("1"));
    }
    const auto env = Env::open(folder / "db", Env::Mode::read_write);
    REQUIRE(env);
    CHECK(env->findings().damaged == 1);
    CHECK(content_of(*env)->rows.size() == 1);
    CHECK(env->set_aside() == 1);
}
