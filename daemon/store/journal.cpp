#include "daemon/store/journal.h"

#include <algorithm>

namespace egress::store {

namespace {

MDB_stat stat_of(Transaction& txn, TableId table) {
    MDB_stat out{};
    mdb_stat(txn.handle(), txn.dbi(table), &out);
    return out;
}

int apply(Transaction& txn, const Change& change) {
    return change.value.empty() ? txn.erase(TableId::rows, change.key)
                                : txn.put(TableId::rows, change.key, change.value);
}

/// Number of the page of the table where the key is or would be; 0: behind all others.
std::uintptr_t page_of(MDB_cursor* cursor, View at, std::size_t page_size) {
    MDB_val key = value_of(at);
    MDB_val value{};
    return mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) == 0
               ? reinterpret_cast<std::uintptr_t>(key.mv_data) / page_size
               : 0;
}

/// True if many neighbours of the batch lie on different pages of the table, by a sample.
bool is_scattered(Transaction& txn, std::span<const Change> changes) {
    constexpr std::size_t samples = 32;
    constexpr std::size_t many = samples / 4;
    if (changes.size() < Journal::least_scattered) {
        return false;
    }
    MDB_cursor* cursor = nullptr;
    if (mdb_cursor_open(txn.handle(), txn.dbi(TableId::rows), &cursor) != 0) {
        return false;
    }
    const std::size_t page_size = stat_of(txn, TableId::rows).ms_psize;
    std::size_t apart = 0;
    for (std::size_t i = 0; i < samples; ++i) {
        const std::size_t at = i * (changes.size() - 1) / samples;
        const auto here = page_of(cursor, changes[at].key, page_size);
        apart += page_of(cursor, changes[at + 1].key, page_size) != here ? 1 : 0;
    }
    mdb_cursor_close(cursor);
    return apart > many;
}

/// The numbers of a table's runs.
struct Numbers {
    std::uint64_t first = 0; ///< 0: the table is empty
    std::uint64_t last = 0;
    std::size_t count = 0;
};

int numbers_of(Transaction& txn, TableId table, Numbers& out) {
    MDB_cursor* cursor = nullptr;
    int code = mdb_cursor_open(txn.handle(), txn.dbi(table), &cursor);
    while (code == 0) {
        PieceAt found{out.last + 1, 0, {}, {}};
        code = seek(cursor, found);
        if (code == 0) {
            out.last = found.run;
            out.first = out.first == 0 ? out.last : out.first;
            ++out.count;
        }
    }
    if (cursor != nullptr) {
        mdb_cursor_close(cursor);
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

} // namespace

/// Learns from the database which table grows, and whether the other one is being moved.
int Journal::find(Transaction& txn) {
    std::array<Numbers, journals.size()> found{};
    for (std::size_t i = 0; i < journals.size(); ++i) {
        if (const int code = numbers_of(txn, journals[i], found[i]); code != 0) {
            return code;
        }
    }
    grows_ = found[1].last > found[0].last ? 1 : 0;
    runs_ = found[grows_].count;
    last_run_ = found[grows_].last;
    moving_ = found[1 - grows_].count != 0;
    known_ = true;
    return moving_ ? moved_.open(txn.handle(), txn.handles(), std::array{other()}) : 0;
}

/// True if what has grown is to be moved: it is large, or so small that the journal is nearly empty
/// and nothing scattered comes any more.
bool Journal::is_due(Transaction& txn, bool scattered) const {
    const std::size_t pages = stat_of(txn, table()).ms_leaf_pages;
    const std::size_t most =
        std::max(least_pages, stat_of(txn, TableId::rows).ms_leaf_pages / table_share);
    return runs_ >= most_runs || pages >= most || (!scattered && pages <= few_pages);
}

int Journal::begin_moving(Transaction& txn) {
    grows_ = 1 - grows_;
    runs_ = 0;
    moving_ = true;
    return moved_.open(txn.handle(), txn.handles(), std::array{other()});
}

int Journal::move(Transaction& txn, std::size_t rows, bool scattered) {
    int code = 0;
    if (runs_ > 0 && !moving_ && is_due(txn, scattered)) {
        code = begin_moving(txn);
    }
    while (code == 0 && moving_ && rows > 0) {
        const Change* const change = moved_.next(txn.handle(), code);
        if (change != nullptr) {
            code = apply(txn, *change);
            --rows;
        } else if (code == 0) {
            code = txn.clear(other());
            moving_ = false;
            moved_.close();
            if (code == 0 && runs_ > 0 && is_due(txn, scattered)) {
                code = begin_moving(txn);
            }
        }
    }
    return code;
}

int Journal::append(Transaction& txn, std::span<const Change> changes) {
    const std::uint64_t run = last_run_ + 1;
    std::uint32_t number = 0;
    Piece piece;
    const auto write = [&] {
        const Bytes key = Piece::key(run, number++);
        const int code = txn.append(table(), key, piece.seal(key));
        piece.clear();
        return code;
    };
    int code = 0;
    for (const auto& change : changes) {
        if (code == 0 && !piece.add(change)) {
            code = write();
            piece.add(change);
        }
    }
    code = code == 0 && !piece.empty() ? write() : code;
    last_run_ = run;
    ++runs_;
    return code;
}

int Journal::write(Transaction& txn, std::span<const Change> changes) {
    moved_.set_on_piece([&txn](TableId table, View key, View value, bool damaged) {
        return damaged ? txn.set_aside(damage_of(table, key, value)) : 0;
    });
    const int code = write_within(txn, changes);
    moved_.set_on_piece({}); // it holds the transaction
    return code;
}

int Journal::write_within(Transaction& txn, std::span<const Change> changes) {
    // After a failure, as of a disk that is nearly full, what is new comes first.
    const bool moves = known_;
    int code = known_ ? 0 : find(txn);
    const bool scattered = is_scattered(txn, changes);
    if (code == 0 && moves) {
        code = move(txn, std::max(least_moved, changes.size() * 2), scattered);
    }
    if (changes.empty() || code != 0) {
        return code;
    }
    if (scattered || !empty()) {
        return append(txn, changes);
    }
    for (const auto& change : changes) {
        code = code == 0 ? apply(txn, change) : code;
    }
    return code;
}

} // namespace egress::store
