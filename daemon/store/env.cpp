#include "daemon/store/env.h"

#include <algorithm>
#include <csignal>
#include <optional>

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/as_owner.h"
#include "daemon/base/log.h"
#include "daemon/store/read_txn.h"

namespace egress::store {

namespace {

constexpr std::size_t first_map_size = std::size_t{256} << 20; // address space, not disk or memory

Result<> commit(ReadTxn txn) {
    const int code = mdb_txn_commit(txn.release());
    if (code != 0) {
        return fail_lmdb("cannot commit", code);
    }
    return {};
}

std::string text_of(const MDB_val& value) {
    return {static_cast<const char*>(value.mv_data), value.mv_size};
}

/// Says what to do where the files of a daemon that ran as another user are in the way.
std::unexpected<Error> fail_open(const std::string& path, const std::string& directory) {
    const int code = errno;
    const auto todo =
        code == EACCES ? fmt::format(" (a daemon of another user made it? As root: chown -R {} {})",
                                     geteuid(), directory)
                       : std::string();
    return fail_errno("cannot open " + path + todo, code);
}

Result<Fd> take_lock(const std::string& directory) {
    const std::string path = directory + "/egressd.lock";
    Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) {
        return fail_open(path, directory);
    }
    if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            return fail("another egressd uses the database in " + directory +
                        "; stop it first, or give this one its own with -D");
        }
        return fail_errno("cannot lock " + path);
    }
    return lock;
}

/// LMDB creates its reader table as a sparse file and maps it: on a full disk the first access
/// would raise SIGBUS.
Result<> reserve_reader_table(const std::string& directory) {
    constexpr off_t table_bytes = 8192; // 126 readers of 64 bytes and the head
    const std::string path = directory + "/lock.mdb";
    const Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640));
    if (!file) {
        return fail_open(path, directory);
    }
    if (const int code = posix_fallocate(file.get(), 0, table_bytes); code != 0) {
        return fail_errno("cannot use the database directory " + directory, code);
    }
    return {};
}

} // namespace

std::unexpected<Error> fail_lmdb(std::string what, int code) {
    switch (code) {
    case MDB_INVALID:
        return fail(what + ": the file is not an egress database, or it is damaged", code);
    case MDB_VERSION_MISMATCH:
        return fail(what + ": the database was written by another version", code);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
        return fail(what + ": the database is damaged", code);
    case MDB_MAP_FULL:
        return fail(what + ": the database's map is full", code);
    default:
        return fail(what + ": " + mdb_strerror(code), code);
    }
}

Result<Env> Env::open(const std::string& directory, Mode mode) {
    Env env;
    env.directory_ = directory;
    std::optional<AsOwner> owner;
    if (mode == Mode::read_write) {
        if (mkdir(directory.c_str(), 0750) != 0 && errno != EEXIST) {
            return fail_errno("cannot make the database directory " + directory);
        }
        owner.emplace(directory);
        auto lock = take_lock(directory);
        if (!lock) {
            return std::unexpected(lock.error());
        }
        env.lock_ = std::move(*lock);
    }
    if (mode == Mode::read_write) {
        if (auto reserved = reserve_reader_table(directory); !reserved) {
            return std::unexpected(reserved.error());
        }
    }
    if (auto opened = env.open_files(mode); !opened) {
        return std::unexpected(opened.error());
    }
    if (mode == Mode::read_write) {
        auto found = inspect(env);
        if (!found) {
            return std::unexpected(found.error());
        }
        env.findings_ = std::move(*found);
        if (!env.findings_.sound()) {
            if (auto rebuilt = rebuild(env, env.findings_); !rebuilt) {
                return fail("cannot mend the database in " + directory + ": " +
                            rebuilt.error().text);
            }
            if (auto opened = env.open_files(mode); !opened) {
                return std::unexpected(opened.error());
            }
        }
        if (env.format_ == Format::sealed) {
            if (auto added = env.add_journal(); !added) {
                return std::unexpected(added.error());
            }
        }
        if (auto kept = env.each_damaged([&](Damage&&) { ++env.set_aside_; }); !kept) {
            return std::unexpected(kept.error());
        }
    }
    return env;
}

Result<> Env::open_files(Mode mode) {
    env_.reset();
    MDB_env* raw = nullptr;
    if (const int code = mdb_env_create(&raw); code != 0) {
        return fail_lmdb("cannot make a database environment", code);
    }
    env_.reset(raw);
    mdb_env_set_maxdbs(raw, 8);
    mdb_env_set_mapsize(raw, first_map_size);
    const unsigned flags = MDB_NOTLS | (mode == Mode::read_only ? unsigned{MDB_RDONLY} : 0u);
    if (const int code = mdb_env_open(raw, directory_.c_str(), flags, 0640); code != 0) {
        return fail_lmdb("cannot open the database in " + directory_, code);
    }
    if (auto checked = check_size(); !checked) {
        return checked;
    }
    MDB_stat stat{};
    mdb_env_stat(raw, &stat);
    return mode == Mode::read_write && stat.ms_entries == 0 ? make_tables() : open_tables();
}

Result<> Env::check_size() const {
    // LMDB reads through a map: a page past the end of a truncated file would raise SIGBUS.
    MDB_envinfo info{};
    MDB_stat stat_info{};
    mdb_env_info(env_.get(), &info);
    mdb_env_stat(env_.get(), &stat_info);
    mdb_filehandle_t fd = -1;
    mdb_env_get_fd(env_.get(), &fd);
    struct stat file {};
    if (fstat(fd, &file) != 0) {
        return fail_errno("cannot examine the database in " + directory_);
    }
    const auto needed = (info.me_last_pgno + 1) * stat_info.ms_psize;
    // The two meta pages of a new environment are not yet written.
    if (file.st_size > 0 && static_cast<std::uint64_t>(file.st_size) < needed &&
        info.me_last_txnid > 0) {
        return fail(
            fmt::format("the database in {} is truncated: {} bytes where {} are needed; move it "
                        "away to start afresh, or restore a copy",
                        directory_, file.st_size, needed));
    }
    return {};
}

Result<> Env::make_tables() {
    Transaction txn(env_.get(), handles_);
    int code = txn.begin_first();
    code = code == 0 ? mdb_dbi_open(txn.handle(), nullptr, 0, &handles_.main) : code;
    for (std::size_t i = 0; i < tables && code == 0; ++i) {
        code = mdb_dbi_open(txn.handle(), table_names[i], MDB_CREATE, &handles_.of[i]);
    }
    if (code == 0) {
        code = mdb_dbi_open(txn.handle(), "damaged", MDB_CREATE, &handles_.damaged);
    }
    txn.use(handles_);
    code = code == 0 ? txn.put_text(TableId::meta, "format", format_journaled) : code;
    code = code == 0 ? txn.commit() : code;
    has_events_ = has_damaged_ = true;
    format_ = Format::journaled;
    return code == 0 ? Result<>() : fail_lmdb("cannot make a database in " + directory_, code);
}

/// Makes a database of format 2 one of format 3.
Result<> Env::add_journal() {
    Transaction txn(env_.get(), handles_);
    int code = txn.begin();
    for (const auto table : journals) {
        const auto at = static_cast<std::size_t>(table);
        code = code == 0 ? mdb_dbi_open(txn.handle(), table_names[at], MDB_CREATE, &handles_.of[at])
                         : code;
    }
    code = code == 0 ? txn.put_text(TableId::meta, "format", format_journaled) : code;
    code = code == 0 ? txn.commit() : code;
    format_ = Format::journaled;
    return code == 0 ? Result<>() : fail_lmdb("cannot convert the database in " + directory_, code);
}

Result<Format> Env::read_format(MDB_txn* txn) const {
    MDB_val key = value_of("format");
    MDB_val value{};
    if (const int code = mdb_get(txn, handles_[TableId::meta], &key, &value); code != 0) {
        return fail_lmdb("cannot read the format of the database in " + directory_, code);
    }
    if (text_of(value) == format_plain) {
        return Format::plain;
    }
    const auto body = checked(view_of("format"), view_of(value));
    if (body && std::ranges::equal(*body, view_of(format_sealed))) {
        return Format::sealed;
    }
    if (body && std::ranges::equal(*body, view_of(format_journaled))) {
        return Format::journaled;
    }
    return fail(fmt::format("the database in {} has format {}; this version reads format {} to {}",
                            directory_, escape(text_of(value), 32), format_plain,
                            format_journaled));
}

std::unexpected<Error> Env::damaged(const Error& error) const {
    if (error.code == MDB_MAP_FULL || error.code == ENOSPC || error.code == EIO) {
        return fail("cannot use the database in " + directory_ + ": " + error.text, error.code);
    }
    return fail(fmt::format("the database in {} is damaged: {}; move it away to start afresh, or "
                            "restore a copy",
                            directory_, error.text));
}

Result<> Env::open_tables() {
    auto txn = begin_reading(env_.get());
    if (!txn) {
        return std::unexpected(txn.error());
    }
    int code = mdb_dbi_open(txn->get(), nullptr, 0, &handles_.main);
    const auto open_table = [&](const char* name, MDB_dbi& dbi) {
        const int found = code == 0 ? mdb_dbi_open(txn->get(), name, 0, &dbi) : code;
        code = found == MDB_NOTFOUND ? 0 : found;
        return found == 0;
    };
    for (const auto table : {TableId::rows, TableId::meta}) {
        const auto at = static_cast<std::size_t>(table);
        if (!open_table(table_names[at], handles_.of[at]) && code == 0) {
            return fail(
                fmt::format("the database in {} has no table \"{}\": it is empty or was not "
                            "made by egressd",
                            directory_, table_names[at]));
        }
    }
    constexpr auto events = static_cast<std::size_t>(TableId::events);
    has_events_ = open_table(table_names[events], handles_.of[events]);
    has_damaged_ = open_table("damaged", handles_.damaged);
    if (code != 0) {
        return fail_lmdb("cannot open the database in " + directory_, code);
    }
    const auto format = read_format(txn->get());
    if (!format) {
        return std::unexpected(format.error());
    }
    format_ = *format;
    bool complete = format_ == Format::plain || (has_events_ && has_damaged_);
    for (const auto table : journals) {
        const auto at = static_cast<std::size_t>(table);
        complete = (open_table(table_names[at], handles_.of[at]) || !has(table)) && complete;
    }
    if (code != 0) {
        return fail_lmdb("cannot open the database in " + directory_, code);
    }
    if (!complete) {
        return damaged({"one of its tables is missing"});
    }
    return commit(std::move(*txn));
}

Result<> Env::clear() {
    Transaction txn(env_.get(), handles_);
    int code = txn.begin();
    for (const auto table :
         {TableId::rows, TableId::events, TableId::journal_a, TableId::journal_b}) {
        code = code == 0 ? txn.clear(table) : code;
    }
    code = code == 0 ? txn.erase(TableId::meta, view_of("trial")) : code;
    code = code == 0 ? txn.commit() : code;
    return code == 0 ? Result<>() : fail_lmdb("cannot empty the database in " + directory_, code);
}

Result<> Env::set_meta(std::string_view name, std::string_view text) const {
    Transaction txn(env_.get(), handles_);
    int code = txn.begin();
    code = code == 0 ? txn.put_text(TableId::meta, name, text) : code;
    code = code == 0 ? txn.commit() : code;
    return code == 0 ? Result<>() : fail_lmdb("cannot write the database in " + directory_, code);
}

Result<> probe(const std::string& directory) {
    const pid_t pid = fork();
    if (pid < 0) {
        return fail_errno("cannot fork");
    }
    if (pid == 0) {
        const rlimit none{0, 0};
        setrlimit(RLIMIT_CORE, &none); // a crash is an expected result here
        for (const int crash : {SIGBUS, SIGSEGV, SIGABRT, SIGFPE, SIGILL}) {
            (void)std::signal(crash, SIG_DFL); // a sanitizer's handler would turn it into an exit
        }
        const auto env = Env::open(directory, Env::Mode::read_only);
        const bool well = env && env->each([](Row&&) { return true; }).has_value() &&
                          env->each_event([](EventRow&&) { return true; }).has_value() &&
                          env->check_meta().has_value();
        _exit(well ? 0 : 1);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
        return fail(
            fmt::format("the database in {} is damaged (reading it ended with signal {}); move "
                        "it away to start afresh, or restore a copy",
                        directory, WTERMSIG(status)));
    }
    return {};
}

} // namespace egress::store
