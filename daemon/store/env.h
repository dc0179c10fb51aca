// The database's files: opening, checking and walking them. RAII over LMDB.
//
// The directory holds data.mdb and lock.mdb (LMDB's) and egressd.lock (one daemon per database).
// Tables: "rows" (records.h), "journal.a" and "journal.b" (what is not in "rows" yet: journal.h),
// "events" (event_row.h), "meta" ("format" -> version, "boot" -> boot id at last start, "clock" ->
// epoch.h, "trial" -> rules on trial, JSON) and "damaged" (transaction.h); the first version did
// not create "events" and "damaged". Format 3 has the journal; format 2 only checksums and a seal
// (seal.h); format 1 has neither. Older formats are converted.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <lmdb.h>

#include "daemon/base/result.h"
#include "daemon/store/event_row.h"
#include "daemon/store/mend.h"
#include "daemon/store/records.h"
#include "daemon/store/runs.h"
#include "lib/fd.h"

namespace egress::store {

inline constexpr std::string_view format_plain = "1";  ///< without checksums
inline constexpr std::string_view format_sealed = "2"; ///< without a journal
inline constexpr std::string_view format_journaled = "3";

/// The message for a failed LMDB call: "WHAT: text".
std::unexpected<Error> fail_lmdb(std::string what, int code);

class Env {
  public:
    enum class Mode { read_only, read_write };

    /// read_write creates missing files and takes egressd.lock; read_only needs an existing
    /// database and may run beside a daemon. A truncated file, another format or a file that is no
    /// database is an error that says so. Only read_write sets damaged rows aside; findings() names
    /// them. If rows are missing, it changes nothing and returns an error.
    static Result<Env> open(const std::string& directory, Mode mode);
    Env(Env&&) noexcept = default;
    Env& operator=(Env&&) noexcept = default;

    /// Rows that each() will visit, give or take what is damaged or comes meanwhile. Not checked:
    /// for making room, no more. 0: unknown.
    std::size_t rows() const;

    using OnDamage = std::function<void(Damage&&)>;
    /// Calls `visit` for every row in key order until it returns false, and `damage` (if given) for
    /// every damaged row. After the last row, missing rows are an error.
    Result<> each(const std::function<bool(Row&&)>& visit, const OnDamage& damage = {}) const;
    /// The same for the table of events.
    Result<> each_event(const std::function<bool(EventRow&&)>& visit,
                        const OnDamage& damage = {}) const;
    /// Calls `visit` for the rows set aside, oldest first.
    Result<> each_damaged(const std::function<void(Damage&&)>& visit) const;

    /// Deletes all rows and the rules on trial, durably; keeps the rows set aside.
    Result<> clear();
    /// Value of a key of "meta"; empty: missing or damaged.
    Result<std::string> meta(std::string_view key) const;
    /// Checks the table of meta() as each() checks its own.
    Result<> check_meta() const;
    Result<> set_meta(std::string_view key, std::string_view value) const; ///< durable

    /// Walks a table as it is in its own transaction and compares it with the seal.
    Result<Audit> walk(TableId table, const Visitor& visitor) const;
    Format format() const { return format_; }

    /// The damage that open() found and repaired.
    const Findings& findings() const { return findings_; }
    /// Number of rows set aside, by this open() and earlier ones.
    std::uint64_t set_aside() const { return set_aside_; }

    MDB_env* handle() const { return env_.get(); }
    const Handles& handles() const { return handles_; }
    const std::string& directory() const { return directory_; }

  private:
    struct Close {
        void operator()(MDB_env* env) const { mdb_env_close(env); }
    };
    Env() = default;
    Result<> open_files(Mode mode);
    Result<> make_tables();
    Result<> open_tables();
    Result<Format> read_format(MDB_txn* txn) const;
    Result<> add_journal();
    bool has(TableId table) const;
    bool gives_back() const;
    Result<Audit> walk_within(MDB_txn* txn, TableId table, const Visitor& visitor) const;
    std::unexpected<Error> damaged(const Error& error) const;
    Result<> check_size() const;

    Fd lock_; // declared before env_, to release it after the database is closed
    std::unique_ptr<MDB_env, Close> env_;
    Handles handles_;
    bool has_events_ = false; ///< always since format 2
    bool has_damaged_ = false;
    Format format_ = Format::journaled;
    Findings findings_;
    std::uint64_t set_aside_ = 0;
    std::string directory_;
};

/// Reads the whole database in a child process, because a damaged page can crash LMDB; the crash
/// becomes an error. Failures that LMDB reports are left to the real reading.
Result<> probe(const std::string& directory);

} // namespace egress::store
