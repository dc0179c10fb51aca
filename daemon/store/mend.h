// What is done about a damaged database, and about one of the format before, when the daemon opens
// it: whatever is whole is written to a new file, what is not goes to a table of its own there, and
// the new file takes the place of the old one. The old one stays beside it if it was damaged.
#pragma once

#include <string>
#include <vector>

#include "daemon/store/audit.h"

namespace egress::store {

class Env;

/// For the log and the status; the texts are safe.
struct Findings {
    static constexpr std::size_t most_notes = 50;

    std::uint64_t damaged = 0;      ///< rows that were set aside just now
    std::vector<std::string> notes; ///< one sentence each, about damage
    bool upgraded = false;          ///< it had the format before
    std::string kept;               ///< where the damaged file is kept; empty: nowhere

    bool sound() const { return notes.empty() && damaged == 0 && !upgraded; }
    /// Beyond most_notes only `damaged` counts.
    void note(std::string text);
};

/// What a damaged row was, as far as its key tells: `row of the table "rows" with the key "..."`.
std::string name_of(const Damage& damage);

/// Reads the seal of what the last transaction left, whose number is `newest`; nullopt: the seal
/// is damaged, so that only the rows can say whether they are whole. An error: what is there is not
/// what was written last.
Result<std::optional<Seal>> read_seal(MDB_txn* txn, MDB_dbi main, std::size_t newest);

/// Looks everything through. Nothing may be writing. An error: something is missing.
Result<Findings> inspect(const Env& env);
/// Puts a new file in the place of the one that `env` reads; it must be opened again afterwards.
Result<> rebuild(const Env& env, Findings& findings);

} // namespace egress::store
