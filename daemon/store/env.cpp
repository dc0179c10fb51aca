#include "daemon/store/env.h"

#include <csignal>

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/log.h"

namespace egress::store {

namespace {

constexpr std::size_t first_map_size = std::size_t{256} << 20; // address space, not disk or memory
constexpr std::string_view format_version = "1";

struct AbortTxn {
    void operator()(MDB_txn* txn) const { mdb_txn_abort(txn); }
};
using Txn = std::unique_ptr<MDB_txn, AbortTxn>;

struct CloseCursor {
    void operator()(MDB_cursor* cursor) const { mdb_cursor_close(cursor); }
};

Result<Txn> begin(MDB_env* env, unsigned flags) {
    MDB_txn* txn = nullptr;
    int code = mdb_txn_begin(env, nullptr, flags, &txn);
    if (code == MDB_MAP_RESIZED) { // the daemon grew it
        mdb_env_set_mapsize(env, 0);
        code = mdb_txn_begin(env, nullptr, flags, &txn);
    }
    if (code != 0) {
        return fail_lmdb("cannot begin a transaction", code);
    }
    return Txn(txn);
}

Result<> commit(Txn txn) {
    const int code = mdb_txn_commit(txn.release());
    if (code != 0) {
        return fail_lmdb("cannot commit", code);
    }
    return {};
}

MDB_val value_of(std::string_view text) {
    return {text.size(), const_cast<char*>(text.data())};
}

std::string text_of(const MDB_val& value) {
    return {static_cast<const char*>(value.mv_data), value.mv_size};
}

std::span<const std::uint8_t> bytes_of(const MDB_val& value) {
    return {static_cast<const std::uint8_t*>(value.mv_data), value.mv_size};
}

Result<Fd> take_lock(const std::string& directory) {
    const std::string path = directory + "/egressd.lock";
    Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock) {
        return fail_errno("cannot open " + path);
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

/// LMDB makes its reader table sparse and maps it: on a full disk the first touch would be a
/// SIGBUS.
Result<> reserve_reader_table(const std::string& directory) {
    constexpr off_t table_bytes = 8192; // 126 readers of 64 bytes and the head
    const std::string path = directory + "/lock.mdb";
    const Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640));
    if (!file) {
        return fail_errno("cannot open " + path);
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
    if (mode == Mode::read_write) {
        if (mkdir(directory.c_str(), 0750) != 0 && errno != EEXIST) {
            return fail_errno("cannot make the database directory " + directory);
        }
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
    MDB_env* raw = nullptr;
    if (const int code = mdb_env_create(&raw); code != 0) {
        return fail_lmdb("cannot make a database environment", code);
    }
    env.env_.reset(raw);
    mdb_env_set_maxdbs(raw, 4);
    mdb_env_set_mapsize(raw, first_map_size);
    const unsigned flags = MDB_NOTLS | (mode == Mode::read_only ? unsigned{MDB_RDONLY} : 0u);
    if (const int code = mdb_env_open(raw, directory.c_str(), flags, 0640); code != 0) {
        return fail_lmdb("cannot open the database in " + directory, code);
    }
    if (auto checked = env.check_size(); !checked) {
        return std::unexpected(checked.error());
    }
    if (auto opened = env.open_tables(mode); !opened) {
        return std::unexpected(opened.error());
    }
    return env;
}

Result<> Env::check_size() const {
    // LMDB reads through a map: a page past the end of a truncated file would be a SIGBUS.
    MDB_envinfo info{};
    MDB_stat stat_info{};
    mdb_env_info(env_.get(), &info);
    mdb_env_stat(env_.get(), &stat_info);
    mdb_filehandle_t fd = -1;
    mdb_env_get_fd(env_.get(), &fd);
    struct stat file {};
    if (fstat(fd, &file) != 0) {
        return fail_errno("cannot look at the database in " + directory_);
    }
    const auto needed = (info.me_last_pgno + 1) * stat_info.ms_psize;
    // A new environment has two meta pages that are not written yet.
    if (file.st_size > 0 && static_cast<std::uint64_t>(file.st_size) < needed &&
        info.me_last_txnid > 0) {
        return fail(
            fmt::format("the database in {} is truncated: {} bytes where {} are needed; move it "
                        "away to start afresh, or restore a copy",
                        directory_, file.st_size, needed));
    }
    return {};
}

Result<> Env::open_tables(Mode mode) {
    const bool writing = mode == Mode::read_write;
    auto txn = begin(env_.get(), writing ? 0 : unsigned{MDB_RDONLY});
    if (!txn) {
        return std::unexpected(txn.error());
    }
    const unsigned create = writing ? unsigned{MDB_CREATE} : 0;
    for (auto [name, dbi] : {std::pair{"rows", &rows_}, std::pair{"meta", &meta_}}) {
        const int code = mdb_dbi_open(txn->get(), name, create, dbi);
        if (code == MDB_NOTFOUND) {
            return fail("the database in " + directory_ + " has no table \"" + name +
                        "\": it is empty or was not made by egressd");
        }
        if (code != 0) {
            return fail_lmdb("cannot open the database in " + directory_, code);
        }
    }
    // Older versions made no such table, and leave it alone.
    const int code_events = mdb_dbi_open(txn->get(), "events", create, &events_);
    if (code_events != 0 && code_events != MDB_NOTFOUND) {
        return fail_lmdb("cannot open the database in " + directory_, code_events);
    }
    has_events_ = code_events == 0;
    MDB_val key = value_of("format");
    MDB_val value{};
    int code = mdb_get(txn->get(), meta_, &key, &value);
    if (code == MDB_NOTFOUND && writing) {
        value = value_of(format_version);
        code = mdb_put(txn->get(), meta_, &key, &value, 0);
    }
    if (code != 0) {
        return fail_lmdb("cannot read the format of the database in " + directory_, code);
    }
    if (text_of(value) != format_version) {
        return fail(fmt::format("the database in {} has format {}; this version reads format {}",
                                directory_, escape(text_of(value), 32), format_version));
    }
    return commit(std::move(*txn));
}

namespace {

/// `visit` gets key and value of each row in turn; false or an error ends the walk.
template <typename Visit>
Result<> walk(MDB_env* env, MDB_dbi table, const std::string& directory, Visit visit) {
    auto txn = begin(env, MDB_RDONLY);
    if (!txn) {
        return std::unexpected(txn.error());
    }
    MDB_cursor* raw = nullptr;
    if (const int code = mdb_cursor_open(txn->get(), table, &raw); code != 0) {
        return fail_lmdb("cannot read the database", code);
    }
    const std::unique_ptr<MDB_cursor, CloseCursor> cursor(raw);
    MDB_val key{};
    MDB_val value{};
    int code = mdb_cursor_get(raw, &key, &value, MDB_FIRST);
    for (; code == 0; code = mdb_cursor_get(raw, &key, &value, MDB_NEXT)) {
        const Result<bool> go_on = visit(key, value);
        if (!go_on) {
            return std::unexpected(go_on.error());
        }
        if (!*go_on) {
            return {};
        }
    }
    if (code != MDB_NOTFOUND) {
        return fail_lmdb("cannot read the database in " + directory, code);
    }
    return {};
}

} // namespace

Result<> Env::each(const std::function<bool(Row&&)>& visit) const {
    return walk(env_.get(), rows_, directory_,
                [&](const MDB_val& key, const MDB_val& value) -> Result<bool> {
                    auto row = decode(bytes_of(key), bytes_of(value));
                    if (!row) {
                        return fail(fmt::format("the database in {} is damaged: no row of this "
                                                "version at key \"{}\"",
                                                directory_, escape(text_of(key), 64)));
                    }
                    return visit(std::move(*row));
                });
}

Result<> Env::each_event(const std::function<bool(EventRow&&)>& visit) const {
    if (!has_events_) {
        return {};
    }
    return walk(env_.get(), events_, directory_,
                [&](const MDB_val& key, const MDB_val& value) -> Result<bool> {
                    auto row = decode_event(bytes_of(key), bytes_of(value));
                    return !row || visit(std::move(*row));
                });
}

Result<> Env::clear() {
    auto txn = begin(env_.get(), 0);
    if (!txn) {
        return std::unexpected(txn.error());
    }
    MDB_val trial = value_of("trial");
    int code = mdb_drop(txn->get(), rows_, 0);
    code = code == 0 ? mdb_drop(txn->get(), events_, 0) : code;
    code = code == 0 ? mdb_del(txn->get(), meta_, &trial, nullptr) : code;
    if (code != 0 && code != MDB_NOTFOUND) {
        return fail_lmdb("cannot empty the database in " + directory_, code);
    }
    return commit(std::move(*txn));
}

Result<std::string> Env::meta(std::string_view name) const {
    auto txn = begin(env_.get(), MDB_RDONLY);
    if (!txn) {
        return std::unexpected(txn.error());
    }
    MDB_val key = value_of(name);
    MDB_val value{};
    const int code = mdb_get(txn->get(), meta_, &key, &value);
    if (code == MDB_NOTFOUND) {
        return std::string();
    }
    if (code != 0) {
        return fail_lmdb("cannot read the database in " + directory_, code);
    }
    return text_of(value);
}

Result<> Env::set_meta(std::string_view name, std::string_view text) const {
    auto txn = begin(env_.get(), 0);
    if (!txn) {
        return std::unexpected(txn.error());
    }
    MDB_val key = value_of(name);
    MDB_val value = value_of(text);
    if (const int code = mdb_put(txn->get(), meta_, &key, &value, 0); code != 0) {
        return fail_lmdb("cannot write the database in " + directory_, code);
    }
    return commit(std::move(*txn));
}

Result<> probe(const std::string& directory) {
    const pid_t pid = fork();
    if (pid < 0) {
        return fail_errno("cannot fork");
    }
    if (pid == 0) {
        const rlimit none{0, 0};
        setrlimit(RLIMIT_CORE, &none); // a crash here is an answer, not an accident
        for (const int crash : {SIGBUS, SIGSEGV, SIGABRT, SIGFPE, SIGILL}) {
            (void)std::signal(crash, SIG_DFL); // a handler (a sanitizer's) would make it an exit
        }
        const auto env = Env::open(directory, Env::Mode::read_only);
        const bool well = env && env->each([](Row&&) { return true; }).has_value() &&
                          env->each_event([](EventRow&&) { return true; }).has_value();
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
