// Rows to the disk: encoding a batch, committing it durably; LMDB alone as the floor.
#include <cstdlib>
#include <filesystem>

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <unistd.h>

#include "daemon/store/store.h"

namespace egress::store {
namespace {

/// A folder on a disk that goes with the benchmark.
class Folder {
  public:
    Folder() {
        const char* const base = std::getenv("EGRESS_BENCH_DIR");
        path_ = std::string(base == nullptr ? "/var/tmp" : base) + "/egress-micro-XXXXXX";
        if (mkdtemp(path_.data()) == nullptr) {
            std::perror(path_.c_str());
            std::exit(1);
        }
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

Row row_at(std::uint32_t i) {
    const std::uint32_t address = i * 2654435761U;
    const std::array<std::uint8_t, 4> bytes = {
        static_cast<std::uint8_t>(address >> 24), static_cast<std::uint8_t>(address >> 16),
        static_cast<std::uint8_t>(address >> 8), static_cast<std::uint8_t>(address)};
    Row row;
    row.name = "egress";
    row.address = Prefix::host(*Address::from_bytes(bytes));
    row.protocol = IPPROTO_TCP;
    row.port = 22;
    row.count = 1;
    row.nfail = 3;
    row.last = 1'780'000'000;
    row.until = 1'780'003'600;
    return row;
}

void put(benchmark::State& state) {
    const Row row = row_at(1);
    Batch batch;
    for (auto _ : state) {
        batch.put(row);
        if (batch.size() == 65'536) {
            batch.clear();
        }
    }
}
BENCHMARK(put)->Name("store/batch_put");

void commit(benchmark::State& state) {
    const Folder folder;
    auto env = Env::open(folder.path(), Env::Mode::read_write);
    auto store = Store::start(std::move(*env));
    std::uint32_t next = 0;
    Batch batch;
    for (auto _ : state) {
        state.PauseTiming();
        batch.clear();
        for (std::int64_t i = 0; i < state.range(0); ++i) {
            batch.put(row_at(next++));
        }
        state.ResumeTiming();
        (*store)->submit(batch);
        if (!(*store)->wait().durable) {
            state.SkipWithError("not durable");
            break;
        }
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}

/// Sorted puts of values of the same size straight into LMDB, on the calling thread.
void lmdb(benchmark::State& state) {
    const Folder folder;
    MDB_env* env = nullptr;
    MDB_dbi dbi = 0;
    MDB_txn* txn = nullptr;
    mdb_env_create(&env);
    mdb_env_set_mapsize(env, std::size_t{1} << 32);
    mdb_env_open(env, folder.path().c_str(), 0, 0600);
    std::uint32_t next = 0;
    std::array<std::uint8_t, 19> key{};
    std::array<std::uint8_t, 40> value{};
    for (auto _ : state) {
        mdb_txn_begin(env, nullptr, 0, &txn);
        mdb_dbi_open(txn, nullptr, 0, &dbi);
        // Spread over all keys, in order, at other places each time.
        const std::uint64_t gap =
            (std::uint64_t{1} << 32) / static_cast<std::uint64_t>(state.range(0));
        std::uint64_t number = next++ * std::uint64_t{2654435761} % gap;
        for (std::int64_t i = 0; i < state.range(0); ++i, number += gap) {
            for (std::size_t byte = 0; byte < 4; ++byte) {
                key[byte] = static_cast<std::uint8_t>(number >> (24 - 8 * byte));
            }
            MDB_val k{key.size(), key.data()};
            MDB_val v{value.size(), value.data()};
            mdb_put(txn, dbi, &k, &v, 0);
        }
        if (mdb_txn_commit(txn) != 0) {
            state.SkipWithError("not durable");
            break;
        }
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
    mdb_env_close(env);
}

/// What the disk itself takes for one page.
void disk(benchmark::State& state) {
    const Folder folder;
    const Fd fd(open((folder.path() + "/page").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    const std::array<char, 4096> page{};
    for (auto _ : state) {
        if (pwrite(fd.get(), page.data(), page.size(), 0) < 0 || fdatasync(fd.get()) != 0) {
            state.SkipWithError("cannot write");
            break;
        }
    }
}

void settings(benchmark::internal::Benchmark* it) {
    it->ArgName("rows")->Arg(1)->Arg(1'000)->Arg(50'000);
    it->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK(disk)->Name("floor/page_and_fdatasync")->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(lmdb)->Name("floor/lmdb_commit")->Apply(settings);
BENCHMARK(commit)->Name("store/commit")->Apply(settings);

} // namespace
} // namespace egress::store
