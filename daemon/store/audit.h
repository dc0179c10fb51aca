// Reading a table with a mistrustful eye: which rows are whole, whether any is missing, and whether
// they can be found by their keys.
#pragma once

#include <functional>

#include "daemon/base/result.h"
#include "daemon/store/transaction.h"

namespace egress::store {

/// How values are kept: "1" had no checksums and no seal.
enum class Format : std::uint8_t { plain = 1, sealed = 2 };

/// What the visitor makes of a row.
enum class Seen {
    next,
    stop,
    no_row, ///< it cannot be read: that is damage as well
};

struct Visitor {
    std::function<Seen(View key, View body)> row;
    std::function<void(Damage&&)> damage; ///< may be null
};

/// What a table was found to hold.
struct Audit {
    Sum whole; ///< of the rows that are whole
    Sum all;   ///< with the damaged ones, by the checksum that stands in them
    std::uint64_t damaged = 0;
    bool index_whole = true; ///< false: not every row is found by its key, until it is rewritten
    bool sealed = false;     ///< a seal was there to compare it with
    bool stopped = false;    ///< the visitor did not want all of it
};

/// Walks the table in key order. An error: LMDB cannot read it, or its rows are out of order, which
/// is a page that stands in another one's place.
Result<Audit> audit(MDB_txn* txn, MDB_dbi table, std::string_view name, Format format,
                    const Visitor& visitor);

/// An error where rows are missing, or stand there as they were before.
Result<> compare(const Audit& found, const Sum& seal, std::string_view table);

} // namespace egress::store
