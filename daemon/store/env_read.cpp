// Env's reading side: the tables as they are, and the rows with the journal's in their places.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include <sys/mman.h>
#include <unistd.h>

#include "daemon/store/env.h"
#include "daemon/store/read_txn.h"

namespace egress::store {

namespace {

/// The part of the map that a reader has passed. LMDB maps the file in one piece, so all that lies
/// between two of its pages is the map's, too; what is needed again comes from the file again.
class Passed {
  public:
    /// `rows`: how many rows' worth of pages the kernel may have mapped with this one.
    void note(View key, std::size_t rows = 1) {
        constexpr std::size_t rows_between = 8192;
        const auto at = reinterpret_cast<std::uintptr_t>(key.data()) & ~(page - 1);
        first_ = std::min(first_, at);
        last_ = std::max(last_, at);
        rows_ += rows;
        if (rows_ >= rows_between) {
            rows_ = 0;
            madvise(reinterpret_cast<void*>(first_), last_ - first_ + page,
                    MADV_DONTNEED); // NOLINT
        }
    }

  private:
    const std::uintptr_t page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    std::uintptr_t first_ = ~std::uintptr_t{0};
    std::uintptr_t last_ = 0;
    std::size_t rows_ = 0;
};

} // namespace

Result<ReadTxn> begin_reading(MDB_env* env) {
    MDB_txn* txn = nullptr;
    int code = mdb_txn_begin(env, nullptr, MDB_RDONLY, &txn);
    if (code == MDB_MAP_RESIZED) { // the daemon grew it
        mdb_env_set_mapsize(env, 0);
        code = mdb_txn_begin(env, nullptr, MDB_RDONLY, &txn);
    }
    if (code != 0) {
        return fail_lmdb("cannot begin a transaction", code);
    }
    return ReadTxn(txn);
}

bool Env::has(TableId table) const {
    return table == TableId::events ? has_events_
           : is_journal(table)      ? format_ == Format::journaled
                                    : true;
}

Result<Audit> Env::walk(TableId table, const Visitor& visitor) const {
    auto txn = begin_reading(env_.get());
    if (!txn) {
        return std::unexpected(txn.error());
    }
    return walk_within(txn->get(), table, visitor);
}

/// Compares with the seal to detect missing rows.
Result<Audit> Env::walk_within(MDB_txn* txn, TableId table, const Visitor& visitor) const {
    std::optional<Seal> seal;
    if (format_ != Format::plain) {
        auto read = read_seal(txn, handles_.main, mdb_txn_id(txn));
        if (!read) {
            return damaged(read.error());
        }
        seal = *read;
    }
    if (!has(table)) {
        return Audit{};
    }
    const char* const name = table_names[static_cast<std::size_t>(table)];
    auto found = audit(txn, handles_[table], name, format_, visitor);
    if (!found) {
        return damaged(
            {fmt::format("table \"{}\": {}", name, found.error().text), found.error().code});
    }
    found->sealed = seal.has_value();
    if (seal) {
        if (auto compared = compare(*found, (*seal)[table], name); !compared) {
            return damaged(compared.error());
        }
    }
    return found;
}

namespace {

Result<> outcome_of(const Result<Audit>& read) {
    return read ? Result<>() : std::unexpected(read.error());
}

/// The rows of the table with the journal's in their places.
class Overlay {
  public:
    Overlay(MDB_txn* txn, Runs& runs, const std::function<bool(Row&&)>& visit)
        : txn_(txn), runs_(runs), visit_(visit) {}

    int begin() {
        step();
        return code_;
    }
    /// For the next row of the table.
    Seen pass(View key, View body) {
        while (code_ == 0 && change_ != nullptr && is_before(change_->key, key)) {
            if (!give()) {
                return Seen::stop;
            }
        }
        if (code_ == 0 && change_ != nullptr && std::ranges::equal(change_->key, key)) {
            return give() ? Seen::next : Seen::stop;
        }
        auto row = decode(key, body);
        return !row ? Seen::no_row : visit_(std::move(*row)) ? Seen::next : Seen::stop;
    }
    /// Behind the last row of the table.
    int end() {
        while (code_ == 0 && change_ != nullptr && give()) {
        }
        return code_;
    }

  private:
    static bool is_before(View a, View b) { return std::ranges::lexicographical_compare(a, b); }
    void step() { change_ = runs_.next(txn_, code_); }
    bool give() {
        const auto body = checked(change_->key, change_->value); // none: a deletion
        auto row = body ? decode(change_->key, *body) : std::nullopt;
        const bool more = !row || visit_(std::move(*row));
        step();
        return more;
    }

    MDB_txn* txn_;
    Runs& runs_;
    const std::function<bool(Row&&)>& visit_;
    const Change* change_ = nullptr;
    int code_ = 0;
};

} // namespace

std::size_t Env::rows() const {
    constexpr std::size_t rows_of_a_piece = 20;
    const auto txn = begin_reading(env_.get());
    const auto entries = [&](TableId table) {
        MDB_stat stat{};
        const bool known = txn && has(table) && mdb_stat(txn->get(), handles_[table], &stat) == 0;
        return known ? stat.ms_entries : 0;
    };
    const auto pieces = entries(TableId::journal_a) + entries(TableId::journal_b);
    return std::max(entries(TableId::rows), pieces * rows_of_a_piece);
}

/// A reader that comes and goes gives the pages that it has passed back on its way, so that it
/// never holds a large database in its memory.
bool Env::gives_back() const {
    unsigned flags = 0;
    mdb_env_get_flags(env_.get(), &flags);
    return (flags & MDB_RDONLY) != 0;
}

Result<> Env::each(const std::function<bool(Row&&)>& visit, const OnDamage& damage) const {
    constexpr std::size_t rows_mapped = 256; // with a page at a random place: those around it
    auto txn = begin_reading(env_.get());    // one for all, so that they belong together
    if (!txn) {
        return std::unexpected(txn.error());
    }
    std::optional<Passed> passed;
    if (gives_back()) {
        passed.emplace();
    }
    for (const auto table : journals) {
        const auto piece = [&](View key, View body) {
            if (passed) {
                passed->note(key, rows_mapped / 8);
            }
            return is_piece(body) ? Seen::next : Seen::no_row;
        };
        if (auto read = walk_within(txn->get(), table, {piece, damage}); !read) {
            return std::unexpected(read.error());
        }
    }
    Runs runs;
    runs.set_on_piece([&](TableId, View key, View, bool) {
        if (passed) {
            passed->note(key, rows_mapped);
        }
        return 0;
    });
    Overlay overlay(txn->get(), runs, visit);
    int code = has(TableId::journal_a) ? runs.open(txn->get(), handles_, journals) : 0;
    code = code == 0 ? overlay.begin() : code;
    if (code != 0) {
        return damaged(fail_lmdb("its journal cannot be read", code).error());
    }
    const auto row = [&](View key, View body) {
        if (passed) {
            passed->note(key);
        }
        return overlay.pass(key, body);
    };
    const auto read = walk_within(txn->get(), TableId::rows, {row, damage});
    if (!read) {
        return std::unexpected(read.error());
    }
    code = read->stopped ? 0 : overlay.end();
    return code == 0 ? Result<>() : damaged(fail_lmdb("its journal cannot be read", code).error());
}

Result<> Env::each_event(const std::function<bool(EventRow&&)>& visit,
                         const OnDamage& damage) const {
    const auto row = [&](View key, View body) {
        auto event = decode_event(key, body);
        return !event ? Seen::no_row : visit(std::move(*event)) ? Seen::next : Seen::stop;
    };
    return outcome_of(walk(TableId::events, {row, damage}));
}

Result<> Env::check_meta() const {
    return outcome_of(walk(TableId::meta, {[](View, View) { return Seen::next; }, {}}));
}

Result<> Env::each_damaged(const std::function<void(Damage&&)>& visit) const {
    if (!has_damaged_) {
        return {};
    }
    auto txn = begin_reading(env_.get());
    if (!txn) {
        return std::unexpected(txn.error());
    }
    MDB_cursor* cursor = nullptr;
    MDB_val key{};
    MDB_val value{};
    int code = mdb_cursor_open(txn->get(), handles_.damaged, &cursor);
    code = code == 0 ? mdb_cursor_get(cursor, &key, &value, MDB_FIRST) : code;
    for (; code == 0; code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        const View bytes = view_of(value);
        auto damage = decode_damage(bytes);
        visit(damage ? std::move(*damage) : Damage{"damaged", {}, {bytes.begin(), bytes.end()}});
    }
    if (cursor != nullptr) {
        mdb_cursor_close(cursor);
    }
    return code == MDB_NOTFOUND ? Result<>() : fail_lmdb("cannot read what is set aside", code);
}

Result<std::string> Env::meta(std::string_view name) const {
    auto txn = begin_reading(env_.get());
    if (!txn) {
        return std::unexpected(txn.error());
    }
    MDB_val key = value_of(name);
    MDB_val value{};
    const int code = mdb_get(txn->get(), handles_[TableId::meta], &key, &value);
    if (code == MDB_NOTFOUND) {
        return std::string();
    }
    if (code != 0) {
        return fail_lmdb("cannot read the database in " + directory_, code);
    }
    if (format_ == Format::plain) {
        return std::string(static_cast<const char*>(value.mv_data), value.mv_size);
    }
    const auto body = checked(view_of(name), view_of(value));
    return body ? std::string(body->begin(), body->end()) : std::string();
}

} // namespace egress::store
