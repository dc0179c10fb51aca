// The rows in memory as they grow: found, added, given a deadline, removed.
#include <memory>

#include <benchmark/benchmark.h>
#include <netinet/in.h>

#include "daemon/count/table.h"

namespace egress {
namespace {

Key key_at(std::uint32_t i) {
    const std::uint32_t address = i * 2654435761U;
    const std::array<std::uint8_t, 4> bytes = {
        static_cast<std::uint8_t>(address >> 24), static_cast<std::uint8_t>(address >> 16),
        static_cast<std::uint8_t>(address >> 8), static_cast<std::uint8_t>(address)};
    return Key::of(0, Prefix::host(*Address::from_bytes(bytes)), IPPROTO_TCP, 22);
}

Table filled(std::uint32_t rows) {
    Table table(rows * 2);
    for (std::uint32_t i = 0; i < rows; ++i) {
        table.set_deadline(table.add(key_at(i)), 1'000'000 + i % 3600);
    }
    return table;
}

void find(benchmark::State& state) {
    const auto rows = static_cast<std::uint32_t>(state.range(0));
    const Table table = filled(rows);
    std::uint32_t i = 0;
    for (auto _ : state) {
        i = i * 1664525 + 1013904223;
        benchmark::DoNotOptimize(table.find(key_at((i >> 8) % rows)));
    }
}
BENCHMARK(find)->Name("table/find")->Arg(1'000)->Arg(100'000)->Arg(1'000'000);

/// What a report on a known address does: new deadline, young again.
void renew(benchmark::State& state) {
    const auto rows = static_cast<std::uint32_t>(state.range(0));
    Table table = filled(rows);
    std::uint32_t i = 0;
    for (auto _ : state) {
        i = i * 1664525 + 1013904223;
        const RowId row = table.find(key_at((i >> 8) % rows));
        table.set_deadline(row, 1'003'600 + (i >> 30));
        table.refresh(row);
    }
}
BENCHMARK(renew)->Name("table/find_and_renew")->Arg(1'000)->Arg(100'000)->Arg(1'000'000);

/// The same for reports that came together.
void renew_ahead(benchmark::State& state) {
    const auto rows = static_cast<std::uint32_t>(state.range(0));
    Table table = filled(rows);
    std::array<Key, 16> keys;
    std::array<Table::Ahead, 16> ahead;
    std::uint32_t i = 0;
    for (auto _ : state) {
        for (std::size_t k = 0; k < keys.size(); ++k) {
            i = i * 1664525 + 1013904223;
            keys[k] = key_at((i >> 8) % rows);
            ahead[k] = table.look_ahead(keys[k]);
        }
        for (auto& one : ahead) {
            table.look_ahead_at_row(one);
        }
        for (const auto& one : ahead) {
            table.look_ahead_at_neighbours(one);
        }
        for (const Key& key : keys) {
            const RowId row = table.find(key);
            table.set_deadline(row, 1'003'600 + (i >> 30));
            table.refresh(row);
        }
    }
    state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * keys.size()));
}
BENCHMARK(renew_ahead)
    ->Name("table/16_found_and_renewed")
    ->Arg(1'000)
    ->Arg(100'000)
    ->Arg(1'000'000);

/// A new address pushes the oldest out.
void add_remove(benchmark::State& state) {
    const auto rows = static_cast<std::uint32_t>(state.range(0));
    Table table = filled(rows);
    std::uint32_t next = rows;
    for (auto _ : state) {
        table.remove(table.oldest_counting());
        table.set_deadline(table.add(key_at(next++)), 1'003'600);
    }
}
BENCHMARK(add_remove)->Name("table/add_and_evict")->Arg(1'000)->Arg(100'000)->Arg(1'000'000);

} // namespace
} // namespace egress
