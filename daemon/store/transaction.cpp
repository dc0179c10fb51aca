#include "daemon/store/transaction.h"

#include <ctime>
#include <utility>

namespace egress::store {

namespace {

constexpr std::uint8_t damage_version = 1;

Bytes copy_of(View bytes) {
    return {bytes.begin(), bytes.end()};
}

} // namespace

Damage damage_of(TableId table, View key, View value) {
    return {table_names[static_cast<std::size_t>(table)], copy_of(key), copy_of(value)};
}

void encode(const Damage& damage, Bytes& out) {
    put(out, damage_version, 1);
    put(out, damage.time, 8);
    put_text(out, damage.table, 255, 1);
    put(out, damage.key.size(), 2);
    out.insert(out.end(), damage.key.begin(), damage.key.end());
    put(out, damage.value.size(), 4);
    out.insert(out.end(), damage.value.begin(), damage.value.end());
}

std::optional<Damage> decode_damage(View value) {
    ByteReader in(value);
    Damage out;
    const bool ours = in.number(1) == damage_version;
    out.time = in.large(8);
    out.table = in.text(1);
    out.key = copy_of(in.take(in.number(2)));
    out.value = copy_of(in.take(in.number(4)));
    return ours && in.done() ? std::optional(std::move(out)) : std::nullopt;
}

int Transaction::begin() {
    if (const int code = mdb_txn_begin(env_, nullptr, 0, &txn_); code != 0) {
        return code;
    }
    MDB_val key = value_of(seal_key);
    MDB_val value{};
    const int code = mdb_get(txn_, handles_.main, &key, &value);
    const auto found = code == 0 ? decode_seal(view_of(value)) : std::nullopt;
    seal_ = found.value_or(Seal{});
    if (!found) { // it was intact at open(): the next open() counts again
        for (auto& sum : seal_.of) {
            sum.known = false;
        }
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

int Transaction::begin_first() {
    return mdb_txn_begin(env_, nullptr, 0, &txn_);
}

int Transaction::cursor_of(TableId table) {
    MDB_cursor*& cursor = cursors_[static_cast<std::size_t>(table)];
    return cursor != nullptr ? 0 : mdb_cursor_open(txn_, handles_[table], &cursor);
}

/// Removes the existing row from the seal; sets it aside if it is damaged.
int Transaction::take_out(TableId table, View key, View value) {
    if (checked(key, value)) {
        seal_[table].remove(checksum_of(value));
        return 0;
    }
    seal_[table].known = false;
    return set_aside(damage_of(table, key, value));
}

int Transaction::put(TableId table, View key, View value) {
    if (const int code = cursor_of(table); code != 0) {
        return code;
    }
    MDB_cursor* const cursor = cursors_[static_cast<std::size_t>(table)];
    MDB_val k = value_of(key);
    MDB_val v{};
    int code = mdb_cursor_get(cursor, &k, &v, MDB_SET);
    if (code == 0) {
        code = take_out(table, key, view_of(v));
    }
    if (code != 0 && code != MDB_NOTFOUND) {
        return code;
    }
    k = value_of(key);
    v = value_of(value);
    code = mdb_cursor_put(cursor, &k, &v, 0);
    seal_[table].add(checksum_of(value));
    return code;
}

int Transaction::append(TableId table, View key, View value) {
    if (const int code = cursor_of(table); code != 0) {
        return code;
    }
    MDB_val k = value_of(key);
    MDB_val v = value_of(value);
    seal_[table].add(checksum_of(value));
    return mdb_cursor_put(cursors_[static_cast<std::size_t>(table)], &k, &v, MDB_APPEND);
}

int Transaction::put_text(TableId table, std::string_view key, std::string_view text) {
    if (text.empty()) {
        return erase(table, view_of(key));
    }
    Bytes value = copy_of(view_of(text));
    append_checksum(view_of(key), value);
    return put(table, view_of(key), value);
}

int Transaction::erase(TableId table, View key) {
    if (const int code = cursor_of(table); code != 0) {
        return code;
    }
    MDB_cursor* const cursor = cursors_[static_cast<std::size_t>(table)];
    MDB_val k = value_of(key);
    MDB_val v{};
    int code = mdb_cursor_get(cursor, &k, &v, MDB_SET);
    if (code == 0) {
        code = take_out(table, key, view_of(v));
        code = code == 0 ? mdb_cursor_del(cursor, 0) : code;
    }
    return code == MDB_NOTFOUND ? 0 : code;
}

Transaction::Got Transaction::get(TableId table, View key) {
    MDB_val k = value_of(key);
    MDB_val v{};
    const int code = mdb_get(txn_, handles_[table], &k, &v);
    if (code != 0) {
        return {code};
    }
    if (const auto body = checked(key, view_of(v))) {
        return {0, body};
    }
    const int erased = erase(table, key);
    return {erased != 0 ? erased : MDB_NOTFOUND};
}

int Transaction::clear(TableId table) {
    seal_[table] = {};
    return mdb_drop(txn_, handles_[table], 0);
}

int Transaction::set_aside(const Damage& damage) {
    MDB_cursor* cursor = nullptr;
    if (const int code = mdb_cursor_open(txn_, handles_.damaged, &cursor); code != 0) {
        return code;
    }
    MDB_val key{};
    MDB_val value{};
    int code = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    const std::uint64_t last = code == 0 ? ByteReader(view_of(key)).large(8) : 0;
    if (code == 0 || code == MDB_NOTFOUND) {
        Bytes number;
        store::put(number, last + 1, 8);
        Damage now = damage;
        if (now.time == 0) {
            now.time = static_cast<std::uint64_t>(std::time(nullptr));
        }
        Bytes bytes;
        encode(now, bytes);
        key = value_of(number);
        value = value_of(bytes);
        code = mdb_cursor_put(cursor, &key, &value, 0);
    }
    mdb_cursor_close(cursor);
    ++damaged_;
    return code;
}

int Transaction::commit() {
    seal_.transaction = mdb_txn_id(txn_);
    const Bytes bytes = encode(seal_);
    MDB_val key = value_of(seal_key);
    MDB_val value = value_of(bytes);
    const int code = mdb_put(txn_, handles_.main, &key, &value, 0);
    if (code != 0) {
        return code;
    }
    return mdb_txn_commit(std::exchange(txn_, nullptr));
}

} // namespace egress::store
