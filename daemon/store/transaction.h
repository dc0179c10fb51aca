// A write transaction that keeps the seal true (seal.h), and the table of what was damaged.
//
// Whatever writes rows, events or meta goes through it. Codes are LMDB's. Damaged rows are moved to
// the table "damaged", bytes and all, so that nothing of the administrator's is lost:
//
//   key    number(be64), counted up
//   value  1 time(be64) table-length table  key-length(be16) key  value-length(be32) value
#pragma once

#include <optional>
#include <string>

#include <lmdb.h>

#include "daemon/store/seal.h"

namespace egress::store {

/// A row that is damaged, as it was found.
struct Damage {
    std::string table;
    Bytes key;
    Bytes value;
    std::uint64_t time = 0; ///< when it was set aside, wall-clock seconds; 0: it was not yet
};

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
        int code = 0;               ///< MDB_NOTFOUND: there is no such row
        std::optional<View> body{}; ///< valid until the next change
    };

    Transaction(MDB_env* env, const Handles& handles) : env_(env), handles_(handles) {}
    ~Transaction() { mdb_txn_abort(txn_); }
    Transaction(const Transaction&) = delete;
    Transaction& operator=(const Transaction&) = delete;

    int begin();
    /// The same for a new database: there is no seal yet, and the handles come later.
    int begin_first();
    void use(const Handles& handles) { handles_ = handles; }
    /// The value has its checksum behind it.
    int put(TableId table, View key, View value);
    /// The same with a text that has none yet; an empty text erases.
    int put_text(TableId table, std::string_view key, std::string_view text);
    /// Succeeds where there is no such row.
    int erase(TableId table, View key);
    /// Sets a damaged row aside, and then finds none.
    Got get(TableId table, View key);
    int clear(TableId table);
    int set_aside(const Damage& damage);
    /// Ends the transaction, for better or worse.
    int commit();

    MDB_txn* handle() const { return txn_; }
    MDB_dbi dbi(TableId table) const { return handles_[table]; }
    /// Rows that were found damaged and set aside so far.
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
