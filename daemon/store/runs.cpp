#include "daemon/store/runs.h"

#include <algorithm>

#include "daemon/store/records.h"

namespace egress::store {

namespace {

constexpr std::uint8_t piece_version = 1;
/// Two pieces fill a page of 4 KiB: LMDB takes values of up to 2,018 bytes beside such keys.
constexpr std::size_t piece_bytes = 2'014;

/// Takes a change from the front of `bytes`; nullopt: there is none.
std::optional<Change> take_change(ByteReader& in) {
    Change out;
    out.key = in.take(in.number(1));
    out.value = in.take(in.number(2));
    return in.ok() && !out.key.empty() ? std::optional(out) : std::nullopt;
}

bool is_less(View a, View b) {
    return std::ranges::lexicographical_compare(a, b);
}

} // namespace

void Piece::clear() {
    bytes_.clear();
    put(bytes_, piece_version, 1);
}

bool Piece::add(const Change& change) {
    if (!empty() && bytes_.size() + 3 + change.key.size() + change.value.size() > piece_bytes) {
        return false;
    }
    put(bytes_, change.key.size(), 1);
    bytes_.insert(bytes_.end(), change.key.begin(), change.key.end());
    put(bytes_, change.value.size(), 2);
    bytes_.insert(bytes_.end(), change.value.begin(), change.value.end());
    return true;
}

View Piece::seal(View key) {
    append_checksum(key, bytes_);
    return bytes_;
}

Bytes Piece::key(std::uint64_t run, std::uint32_t number) {
    Bytes out;
    put(out, run, 8);
    put(out, number, 4);
    return out;
}

int seek(MDB_cursor* cursor, PieceAt& at) {
    const Bytes wanted = Piece::key(at.run, at.number);
    MDB_val key = value_of(wanted);
    MDB_val value{};
    if (const int code = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE); code != 0) {
        return code;
    }
    at.key = view_of(key);
    at.value = view_of(value);
    ByteReader in(at.key);
    at.run = in.large(8);
    at.number = in.number(4);
    // A damaged branch may lead back, and a damaged key anywhere: no loop over pieces may follow.
    const bool last = at.run == ~std::uint64_t{0} || at.number == ~std::uint32_t{0};
    return !in.done() || last || is_less(at.key, wanted) ? MDB_CORRUPTED : 0;
}

bool is_piece(View body) {
    ByteReader in(body);
    bool good = in.number(1) == piece_version;
    while (good && !in.done()) {
        const auto change = take_change(in);
        good = change.has_value();
        if (good && !change->value.empty()) {
            const auto row = checked(change->key, change->value);
            good = row && decode(change->key, *row);
        }
    }
    return good;
}

void Runs::close() {
    runs_ = {};
    heap_ = {};
    key_ = {};
    value_ = {};
}

int Runs::open(MDB_txn* txn, const Handles& handles, std::span<const TableId> from) {
    close();
    for (const auto table : from) {
        if (const int code = find(txn, table, handles[table]); code != 0) {
            return code;
        }
    }
    int code = 0;
    for (auto& run : runs_) {
        if (advance(txn, run, code)) {
            heap_.push_back(&run);
        }
    }
    std::ranges::make_heap(heap_, comes_later);
    return code;
}

/// Notes the runs of a table.
int Runs::find(MDB_txn* txn, TableId table, MDB_dbi dbi) {
    MDB_cursor* cursor = nullptr;
    int code = mdb_cursor_open(txn, dbi, &cursor);
    for (std::uint64_t number = 0; code == 0; ++number) {
        PieceAt found{number, 0, {}, {}};
        code = seek(cursor, found);
        if (code == 0) {
            number = found.run;
            Run& run = runs_.emplace_back();
            run.table = table;
            run.dbi = dbi;
            run.number = number;
        }
    }
    if (cursor != nullptr) {
        mdb_cursor_close(cursor);
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

bool Runs::load(MDB_txn* txn, Run& run, int& code) {
    MDB_cursor* cursor = nullptr;
    code = code == 0 ? mdb_cursor_open(txn, run.dbi, &cursor) : code;
    bool found = false;
    while (code == 0 && !found) {
        PieceAt next{run.number, run.piece, {}, {}};
        const int got = seek(cursor, next);
        if (got == MDB_NOTFOUND || (got == 0 && next.run != run.number)) {
            break;
        }
        code = got;
        if (code != 0) {
            break;
        }
        run.piece = next.number + 1;
        const auto body = checked(next.key, next.value);
        found = body && is_piece(*body);
        if (on_piece_) {
            code = on_piece_(run.table, next.key, next.value, !found);
        }
        if (found) {
            run.bytes.assign(body->begin(), body->end());
            run.at = 1;
        }
    }
    if (cursor != nullptr) {
        mdb_cursor_close(cursor);
    }
    return found && code == 0;
}

bool Runs::advance(MDB_txn* txn, Run& run, int& code) {
    if (run.at >= run.bytes.size() && !load(txn, run, code)) {
        return false;
    }
    const View rest = View(run.bytes).subspan(run.at);
    ByteReader in(rest);
    const auto change = take_change(in);
    if (!change) { // an empty piece, which is never written
        return false;
    }
    run.change = *change;
    run.at += 3 + change->key.size() + change->value.size();
    return true;
}

bool Runs::comes_later(const Run* a, const Run* b) {
    const View left = a->change.key;
    const View right = b->change.key;
    const auto order = std::lexicographical_compare_three_way(left.begin(), left.end(),
                                                              right.begin(), right.end());
    return order != 0 ? order > 0 : a->number < b->number;
}

const Change* Runs::next(MDB_txn* txn, int& code) {
    while (code == 0 && !heap_.empty()) {
        std::ranges::pop_heap(heap_, comes_later);
        Run* const run = heap_.back();
        const bool older = std::ranges::equal(run->change.key, key_);
        if (!older) {
            key_.assign(run->change.key.begin(), run->change.key.end());
            value_.assign(run->change.value.begin(), run->change.value.end());
            out_ = {key_, value_};
        }
        if (advance(txn, *run, code)) {
            std::ranges::push_heap(heap_, comes_later);
        } else {
            heap_.pop_back();
        }
        if (!older && code == 0) {
            return &out_;
        }
    }
    return nullptr;
}

} // namespace egress::store
