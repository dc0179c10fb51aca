// A write transaction that keeps the seal correct (seal.h), and the table of damaged rows.
//
// All writes of rows, events and meta use it. Codes are LMDB's. Damaged rows move to the table
// "damaged" with all their bytes, so that the administrator loses no data:
//
//   key    number(be64), counted up
//   value  1 time(be64) table-length table  key-length(be16) key  value-length(be32) value
#pragma once

#include <optional>
#include <string>

#include <lmdb.h>

#include "daemon/store/seal.h"

namespace egress::store {

/// A damaged row, with the bytes found.
struct Damage {
    std::string table;
    Bytes key;
    Bytes value;
    std::uint64_t time = 0; ///< when it was set aside, wall-clock seconds; 0: stored as now
};

Damage damage_of(TableId table, View key, View value);
void encode(const Damage& damage, Bytes& out);
std::optional<Damage> decode_damage(View value);

/// LMDB's handles of the tables.
struct Handles {
    MDB_dbi main = 0;
    std::array<MDB_dbi, tables> of{};
    MDB_dbi damaged = 0;

    MDB_dbi operator[](TableId table) const { return of[static_cast<std::size_t>(table)]; }
};

class Transaction {
  public:
    struct Got {
        int code = 0;               ///< MDB_NOTFOUND: no such row
        std::optional<View> body{}; ///< valid until the next change
    };

    Transaction(MDB_env* env, const Handles& handles) : env_(env), handles_(handles) {}
    ~Transaction() { mdb_txn_abort(txn_); }
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;

    int begin();
    /// The same for a new database, which has no seal yet; use() sets the handles later.
    int begin_first();
    void use(const Handles& handles) { handles_ = handles; }
    /// The value must end with its checksum.
    int put(TableId table, View key, View value);
    /// The same for a key beyond all others of the table: fills its pages.
    int append(TableId table, View key, View value);
    /// As put() for a text without a checksum; an empty text erases the key.
    int put_text(TableId table, std::string_view key, std::string_view text);
    /// Succeeds if there is no such row.
    int erase(TableId table, View key);
    /// If the row is damaged, sets it aside and returns MDB_NOTFOUND.
    Got get(TableId table, View key);
    int clear(TableId table);
    int set_aside(const Damage& damage);
    /// Ends the transaction, even if it fails.
    int commit();

    MDB_txn* handle() const { return txn_; }
    const Handles& handles() const { return handles_; }
    MDB_dbi dbi(TableId table) const { return handles_[table]; }
    /// Number of damaged rows set aside so far.
    std::uint64_t damaged() const { return damaged_; }
    Seal& seal() { return seal_; }

  private:
    int cursor_of(TableId table);
    int take_out(TableId table, View key, View value);

    MDB_env* env_;
    Handles handles_;
    MDB_txn* txn_ = nullptr;
    std::array<MDB_cursor*, tables> cursors_{}; ///< end with the transaction
    Seal seal_;
    std::uint64_t damaged_ = 0;
};

} // namespace egress::store
