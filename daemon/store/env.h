// The database's files: opening, checking and walking them. RAII over LMDB.
//
// The directory holds data.mdb and lock.mdb (LMDB's) and egressd.lock (one daemon per database).
// Two tables: "rows" (records.h) and "meta" ("format" -> version, "boot" -> boot id at last start).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <lmdb.h>

#include "daemon/result.h"
#include "daemon/store/records.h"
#include "lib/fd.h"

namespace egress::store {

/// What a failed LMDB call means to a person: "WHAT: text".
std::unexpected<Error> fail_lmdb(std::string what, int code);

class Env {
  public:
    enum class Mode { read_only, read_write };

    /// read_write makes what is missing and takes egressd.lock; read_only needs an existing
    /// database and may run beside a daemon. A file that is truncated, of another format, or no
    /// database at all is an error that says so; nothing is repaired or dropped silently.
    static Result<Env> open(const std::string& directory, Mode mode);
    Env(Env&&) noexcept = default;
    Env& operator=(Env&&) noexcept = default;

    /// Calls `visit` for every row in key order until it returns false. A record that cannot be
    /// decoded ends the walk with an error that names its key.
    Result<> each(const std::function<bool(Row&&)>& visit) const;

    /// Deletes every row, durably.
    Result<> clear();
    Result<std::string> boot() const;                 ///< empty where none was kept
    Result<> set_boot(const std::string& boot) const; ///< durable

    MDB_env* handle() const { return env_.get(); }
    MDB_dbi rows() const { return rows_; }
    const std::string& directory() const { return directory_; }

  private:
    struct Close {
        void operator()(MDB_env* env) const { mdb_env_close(env); }
    };
    Env() = default;
    Result<> open_tables(Mode mode);
    Result<> check_size() const;

    Fd lock_; // declared before env_, so that it is released after the database is closed
    std::unique_ptr<MDB_env, Close> env_;
    MDB_dbi rows_ = 0;
    MDB_dbi meta_ = 0;
    std::string directory_;
};

/// Reads the whole database in a child process: a page that is garbage can make LMDB crash, and
/// that must be an error text here. A failure that the reading itself reports is left to the real
/// reading.
Result<> probe(const std::string& directory);

} // namespace egress::store
