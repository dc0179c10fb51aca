// Writes scattered rows to the end of a journal, and moves them into their table later, in key
// order, so that many go to one page.
//
// A row that is written in its place alone costs its page: 4 KiB that are copied, written and put
// on the disk, and a large table has another page for nearly every row. The journal takes some
// forty rows a page; when it is a third as large as the table, a part of it goes into the table
// with each commit, ten rows or more to a page. Its two tables take turns: one is emptied while
// the other grows. Batches whose rows lie close together go straight into the table while the
// journal is empty. Runs on the store's writer thread.
#pragma once

#include <cstdint>
#include <span>

#include "daemon/store/runs.h"
#include "daemon/store/transaction.h"

namespace egress::store {

class Journal {
  public:
    static constexpr std::size_t least_pages = 256;    ///< of a journal that is moved
    static constexpr std::size_t table_share = 3;      ///< ... or this part of the table's pages
    static constexpr std::size_t few_pages = 64;       ///< of one that is moved at once
    static constexpr std::size_t most_runs = 1'024;    ///< a reader has a piece of each in memory
    static constexpr std::size_t least_moved = 4'096;  ///< rows that one commit moves
    static constexpr std::size_t least_scattered = 64; ///< rows of a batch that may be scattered

    /// Writes the changes (in key order, each key once), and moves a part of the journal. Returns
    /// LMDB's code.
    int write(Transaction& txn, std::span<const Change> changes);
    /// Call after a transaction failed: the next write() looks into the database.
    void forget() { known_ = false; }

  private:
    int write_within(Transaction& txn, std::span<const Change> changes);
    int find(Transaction& txn);
    bool is_due(Transaction& txn, bool scattered) const;
    int begin_moving(Transaction& txn);
    int move(Transaction& txn, std::size_t rows, bool scattered);
    int append(Transaction& txn, std::span<const Change> changes);
    bool empty() const { return runs_ == 0 && !moving_; }
    TableId table() const { return journals[grows_]; }
    TableId other() const { return journals[1 - grows_]; }

    bool known_ = false;
    std::size_t grows_ = 0; ///< of `journals`: takes the changes
    std::size_t runs_ = 0;  ///< in that one
    std::uint64_t last_run_ = 0;
    bool moving_ = false; ///< the other one has rows, which go into the table
    Runs moved_;
};

} // namespace egress::store
