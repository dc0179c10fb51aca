// Reads the journal: rows that are written, and not in their table yet (journal.h).
//
// A run is what one commit changed, in key order, in pieces; the higher number is the newer one:
//
//   key    run(be64) piece(be32)
//   value  1  { key-length key  value-length(be16) value }  checksum(be32)
//
// Key and value are those of "rows", with the row's own checksum; no value is a deletion.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "daemon/store/transaction.h"

namespace egress::store {

/// What a commit did to one row of the table "rows".
struct Change {
    View key;
    View value; ///< with its checksum; empty: a deletion
};

/// Puts changes together to the values of pieces.
class Piece {
  public:
    Piece() { clear(); }
    /// False: it is full. An empty piece has room for every row.
    bool add(const Change& change);
    bool empty() const { return bytes_.size() == 1; }
    /// Appends the checksum; call clear() before the next add().
    View seal(View key);
    void clear();

    static Bytes key(std::uint64_t run, std::uint32_t number);

  private:
    Bytes bytes_;
};

/// A piece in the database.
struct PieceAt {
    std::uint64_t run = 0;
    std::uint32_t number = 0;
    View key; ///< in the map, as the value
    View value;
};

/// Finds the first piece from `at` on: each call with a higher place gives a higher one. Returns
/// LMDB's code.
int seek(MDB_cursor* cursor, PieceAt& at);

/// True if the bytes (without the checksum) are a piece whose rows can be decoded.
bool is_piece(View body);

/// All runs of some tables as one, in key order: of each key only the newest change. Holds a piece
/// of each run in its own memory, so it may go on in another transaction as long as these tables
/// do not change. Codes are LMDB's.
class Runs {
  public:
    /// Called for each piece that is read, with its key and value in the map. A damaged one is left
    /// out. A code other than 0 ends the reading.
    using OnPiece = std::function<int(TableId table, View key, View value, bool damaged)>;

    int open(MDB_txn* txn, const Handles& handles, std::span<const TableId> from);
    /// Frees the memory.
    void close();
    /// The next change, or null at the end (or where `code` is not 0). Valid until the next call.
    const Change* next(MDB_txn* txn, int& code);
    void set_on_piece(OnPiece on_piece) { on_piece_ = std::move(on_piece); }

  private:
    struct Run {
        TableId table{};
        MDB_dbi dbi = 0;
        std::uint64_t number = 0;
        std::uint32_t piece = 0; ///< number of the next one
        Bytes bytes;             ///< of the current one
        std::size_t at = 0;      ///< behind the current change
        Change change;
    };
    int find(MDB_txn* txn, TableId table, MDB_dbi dbi);
    /// Moves to the run's next change; false at its end.
    bool advance(MDB_txn* txn, Run& run, int& code);
    bool load(MDB_txn* txn, Run& run, int& code);
    static bool comes_later(const Run* a, const Run* b);

    OnPiece on_piece_;
    std::vector<Run> runs_;
    std::vector<Run*> heap_; ///< those not at their end, by key, then the newest first
    Bytes key_;              ///< of the change that is out
    Bytes value_;
    Change out_;
};

} // namespace egress::store
