// Repairs a damaged database, or converts one of the previous format, when the daemon opens it: it
// writes the intact rows to a new file, the damaged ones to a table of their own there, and puts
// the new file in the place of the old one. A damaged old file is kept beside it.
#pragma once

#include <string>
#include <vector>

#include "daemon/store/audit.h"

namespace egress::store {

class Env;

/// For the log and the status; the texts are escaped.
struct Findings {
    static constexpr std::size_t most_notes = 50;

    std::uint64_t damaged = 0;      ///< rows set aside by this open()
    std::vector<std::string> notes; ///< one sentence each, about damage
    bool upgraded = false;          ///< it had the previous format
    std::string kept;               ///< path of the kept damaged file; empty: none

    bool sound() const { return notes.empty() && damaged == 0 && !upgraded; }
    /// Beyond most_notes only `damaged` counts.
    void note(std::string text);
};

/// Describes a damaged row by its key: `row of the table "rows" with the key "..."`.
std::string name_of(const Damage& damage);

/// Reads the seal of the last transaction, whose number is `newest`. nullopt: the seal is damaged,
/// so only the rows show whether they are intact. An error: the content is not the last one
/// written.
Result<std::optional<Seal>> read_seal(MDB_txn* txn, MDB_dbi main, std::size_t newest);

/// Checks the whole database, which must have no writer. An error: rows are missing.
Result<Findings> inspect(const Env& env);
/// Replaces the file that `env` reads by a new one; the caller must open it again.
Result<> rebuild(const Env& env, Findings& findings);

} // namespace egress::store
