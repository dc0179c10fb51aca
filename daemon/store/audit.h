// Checks a table while reading it: which rows are intact, whether any is missing, and whether each
// can be found by its key.
#pragma once

#include <functional>

#include "daemon/base/result.h"
#include "daemon/store/transaction.h"

namespace egress::store {

/// How values are stored: format "1" has neither checksums nor a seal, "2" no journal.
enum class Format : std::uint8_t { plain = 1, sealed = 2, journaled = 3 };

/// The visitor's answer to a row.
enum class Seen {
    next,
    stop,
    no_row, ///< it cannot be decoded: that is damage, too
};

struct Visitor {
    std::function<Seen(View key, View body)> row;
    std::function<void(Damage&&)> damage; ///< may be null
};

/// The result of an audit.
struct Audit {
    Sum whole; ///< of the intact rows
    Sum all;   ///< with the damaged rows, by their stored checksums
    std::uint64_t damaged = 0;
    bool index_whole = true; ///< false: rows cannot be found by key until a rewrite
    bool sealed = false;     ///< a seal was available for comparison
    bool stopped = false;    ///< the visitor ended the walk early
};

/// Walks the table in key order. An error: LMDB cannot read it, or its rows are out of order
/// because one page is in the place of another.
Result<Audit> audit(MDB_txn* txn, MDB_dbi table, std::string_view name, Format format,
                    const Visitor& visitor);

/// An error: rows are missing or are an older version.
Result<> compare(const Audit& found, const Sum& seal, std::string_view table);

} // namespace egress::store
