// Detects a damaged database: a checksum after each value, and one record, the seal, with the
// number of rows and the sum of their checksums.
//
// The checksum covers key and value, so that it detects a row in the place of another. The seal
// detects missing rows, and an older page of the file in the place of the newest. It is in LMDB's
// main table, a page that every commit writes anyway.
//
//   value  bytes  checksum(be32)
//   seal   2  transaction(be64)  { count(be64) sum(be64) known } of each table  checksum(be32)
//
// Version 1 of the seal has the first three tables.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include <lmdb.h>

#include "daemon/store/bytes.h"

namespace egress::store {

using View = std::span<const std::uint8_t>;

inline constexpr std::size_t checksum_bytes = 4;

/// Appends the checksum to `out`, where the key begins at `key` and the value at `value`.
void append_checksum(Bytes& out, std::size_t key, std::size_t value);
/// The same for a value in a buffer of its own.
void append_checksum(View key, Bytes& value);
/// The value without its checksum; nullopt: the checksum is wrong or missing.
std::optional<View> checked(View key, View value);
/// The checksum at a value's end, right or wrong; 0: the value is too short.
std::uint32_t checksum_of(View value);

/// The tables with checksums.
enum class TableId : std::uint8_t { rows, events, meta, journal_a, journal_b };
inline constexpr std::size_t tables = 5;
inline constexpr std::array<const char*, tables> table_names = {"rows", "events", "meta",
                                                                "journal.a", "journal.b"};
constexpr const char* name(TableId table) {
    return table_names[static_cast<std::size_t>(table)];
}
constexpr bool is_journal(TableId table) {
    return table == TableId::journal_a || table == TableId::journal_b;
}
inline constexpr std::array journals = {TableId::journal_a, TableId::journal_b};

/// The number of rows of one table and the sum of their checksums.
struct Sum {
    std::uint64_t count = 0;
    std::uint64_t sum = 0;
    bool known = true; ///< false: a damaged row was replaced, so its share of the sum is unknown

    void add(std::uint32_t checksum) {
        ++count;
        sum += checksum;
    }
    void remove(std::uint32_t checksum) {
        --count;
        sum -= checksum;
    }
};

struct Seal {
    std::uint64_t transaction = 0; ///< LMDB's number of the transaction that wrote it
    std::array<Sum, tables> of{};

    Sum& operator[](TableId table) { return of[static_cast<std::size_t>(table)]; }
    const Sum& operator[](TableId table) const { return of[static_cast<std::size_t>(table)]; }
};

inline constexpr std::string_view seal_key = "seal";

Bytes encode(const Seal& seal);
/// nullopt: damaged.
std::optional<Seal> decode_seal(View value);

inline View view_of(const MDB_val& value) {
    return {static_cast<const std::uint8_t*>(value.mv_data), value.mv_size};
}
inline View view_of(std::string_view text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
/// For calls of LMDB, which does not change its arguments.
inline MDB_val value_of(View bytes) {
    return {bytes.size(), const_cast<std::uint8_t*>(bytes.data())};
}
inline MDB_val value_of(std::string_view text) {
    return value_of(view_of(text));
}

} // namespace egress::store
