// The database's files: opening, checking and walking them. RAII over LMDB.
//
// The directory holds data.mdb and lock.mdb (LMDB's) and egressd.lock (one daemon per database).
// Tables: "rows" (records.h), "events" (event_row.h), "meta" ("format" -> version, "boot" -> boot
// id at last start, "trial" -> rules that are tried out, JSON) and "damaged" (transaction.h); older
// versions made no "events" and no "damaged". Format 2 has checksums and a seal (seal.h), format 1
// had none and is read and rewritten.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <lmdb.h>

#include "daemon/base/result.h"
#include "daemon/store/event_row.h"
#include "daemon/store/mend.h"
#include "daemon/store/records.h"
#include "lib/fd.h"

namespace egress::store {

inline constexpr std::string_view format_plain = "1"; ///< without checksums
inline constexpr std::string_view format_sealed = "2";

/// What a failed LMDB call means to a person: "WHAT: text".
std::unexpected<Error> fail_lmdb(std::string what, int code);

class Env {
  public:
    enum class Mode { read_only, read_write };

    /// read_write makes what is missing and takes egressd.lock; read_only needs an existing
    /// database and may run beside a daemon. A file that is truncated, of another format, or no
    /// database at all is an error that says so. Damaged rows are set aside by read_write alone,
    /// and findings() names them; where rows are missing, nothing is changed and it is an error.
    static Result<Env> open(const std::string& directory, Mode mode);
    Env(Env&&) noexcept = default;
    Env& operator=(Env&&) noexcept = default;

    using OnDamage = std::function<void(Damage&&)>;
    /// Calls `visit` for every row in key order until it returns false, and `damage`, where it is
    /// given, for what is damaged. At the end it is an error where rows were missing.
    Result<> each(const std::function<bool(Row&&)>& visit, const OnDamage& damage = {}) const;
    /// The same for what was seen of the traffic.
    Result<> each_event(const std::function<bool(EventRow&&)>& visit,
                        const OnDamage& damage = {}) const;
    /// Calls `visit` for what is set aside, in the order in which it was.
    Result<> each_damaged(const std::function<void(Damage&&)>& visit) const;

    /// Deletes every row and what is tried out, durably; what is set aside stays.
    Result<> clear();
    /// Value of a key of "meta"; empty where none was kept, or where it is damaged.
    Result<std::string> meta(std::string_view key) const;
    /// Reads what meta() gives, as each() does.
    Result<> check_meta() const;
    Result<> set_meta(std::string_view key, std::string_view value) const; ///< durable

    /// Walks a table in a transaction of its own, and compares it with the seal.
    Result<Audit> walk(TableId table, const Visitor& visitor) const;
    Format format() const { return format_; }

    /// What opening it found and mended.
    const Findings& findings() const { return findings_; }
    /// Rows that are set aside, now and before.
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
    std::unexpected<Error> damaged(const Error& error) const;
    Result<> check_size() const;

    Fd lock_; // declared before env_, so that it is released after the database is closed
    std::unique_ptr<MDB_env, Close> env_;
    Handles handles_;
    bool has_events_ = false; ///< always in format 2
    bool has_damaged_ = false;
    Format format_ = Format::sealed;
    Findings findings_;
    std::uint64_t set_aside_ = 0;
    std::string directory_;
};

/// Reads the whole database in a child process: a page that is garbage can make LMDB crash, and
/// that must be an error text here. A failure that the reading itself reports is left to the real
/// reading.
Result<> probe(const std::string& directory);

} // namespace egress::store
