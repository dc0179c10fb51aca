// The database's files: opening, checking and walking them. RAII over LMDB.
//
// The directory holds data.mdb and lock.mdb (LMDB's) and egressd.lock (one daemon per database).
// Tables: "rows" (records.h), "events" (event_row.h; absent where an older version made the
// database) and "meta" ("format" -> version, "boot" -> boot id at last start, "trial" -> rules that
// are tried out, JSON).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <lmdb.h>

#include "daemon/result.h"
#include "daemon/store/event_row.h"
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

    /// The same for what was seen of the traffic. Rows of other versions are left out.
    Result<> each_event(const std::function<bool(EventRow&&)>& visit) const;

    /// Deletes every row and what is tried out, durably.
    Result<> clear();
    /// Value of a key of "meta"; empty where none was kept.
    Result<std::string> meta(std::string_view key) const;
    Result<> set_meta(std::string_view key, std::string_view value) const; ///< durable

    MDB_env* handle() const { return env_.get(); }
    MDB_dbi rows() const { return rows_; }
    MDB_dbi events() const { return events_; }
    MDB_dbi metas() const { return meta_; }
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
    MDB_dbi events_ = 0;
    bool has_events_ = false;
    MDB_dbi meta_ = 0;
    std::string directory_;
};

/// Reads the whole database in a child process: a page that is garbage can make LMDB crash, and
/// that must be an error text here. A failure that the reading itself reports is left to the real
/// reading.
Result<> probe(const std::string& directory);

} // namespace egress::store
