#include "daemon/store/event_table.h"

#include <memory>

namespace egress::store {

namespace {

constexpr std::uint32_t day = 24 * 60 * 60;

struct CloseCursor {
    void operator()(MDB_cursor* cursor) const { mdb_cursor_close(cursor); }
};

MDB_val value_of(std::vector<std::uint8_t>& bytes) {
    return {bytes.size(), bytes.data()};
}

std::span<const std::uint8_t> bytes_of(const MDB_val& value) {
    return {static_cast<const std::uint8_t*>(value.mv_data), value.mv_size};
}

} // namespace

int EventTable::add(MDB_txn* txn, MDB_dbi table, const EventRow& row) {
    if (!known_ || row.last >= looked_ + day) {
        if (const int code = take_stock(txn, table, row.last); code != 0) {
            return code;
        }
    }
    bool found = false;
    for (const auto& each : {row, widened(row)}) {
        const int code = merge_into(txn, table, each, found);
        if (code != 0 || found) {
            return code;
        }
        if (has_room(each)) {
            return insert(txn, table, each);
        }
        if ((each.flags & EventRow::wide) == 0) {
            counters_.widened += row.count;
        }
    }
    counters_.overflowed += row.count;
    const auto rest = overflowed(row);
    const int code = merge_into(txn, table, rest, found);
    return code != 0 || found ? code : insert(txn, table, rest);
}

/// Counts what is there, and deletes what has not been seen for long.
int EventTable::take_stock(MDB_txn* txn, MDB_dbi table, std::uint32_t now) {
    MDB_cursor* raw = nullptr;
    if (const int code = mdb_cursor_open(txn, table, &raw); code != 0) {
        return code;
    }
    const std::unique_ptr<MDB_cursor, CloseCursor> cursor(raw);
    shares_.clear();
    rows_ = 0;
    MDB_val key{};
    MDB_val value{};
    int code = mdb_cursor_get(raw, &key, &value, MDB_FIRST);
    for (; code == 0; code = mdb_cursor_get(raw, &key, &value, MDB_NEXT)) {
        const auto row = decode_event(bytes_of(key), bytes_of(value));
        if (!row) {
            continue; // of another version
        }
        if (now > remembered && row->last < now - remembered) {
            if (const int deleted = mdb_cursor_del(raw, 0); deleted != 0) {
                return deleted;
            }
        } else {
            note(*row);
        }
    }
    if (code != MDB_NOTFOUND) {
        return code;
    }
    known_ = true;
    looked_ = now;
    counters_.rows = rows_;
    return 0;
}

int EventTable::merge_into(MDB_txn* txn, MDB_dbi table, const EventRow& row, bool& found) {
    key_.clear();
    encode_key(row, key_);
    MDB_val key = value_of(key_);
    MDB_val value{};
    int code = mdb_get(txn, table, &key, &value);
    found = code == 0;
    if (code != 0) {
        return code == MDB_NOTFOUND ? 0 : code;
    }
    EventRow sum = row;
    if (const auto before = decode_event(key_, bytes_of(value))) {
        merge(sum, *before);
    }
    value_.clear();
    encode_value(sum, value_);
    value = value_of(value_);
    return mdb_put(txn, table, &key, &value, 0);
}

int EventTable::insert(MDB_txn* txn, MDB_dbi table, const EventRow& row) {
    key_.clear();
    value_.clear();
    encode_key(row, key_);
    encode_value(row, value_);
    MDB_val key = value_of(key_);
    MDB_val value = value_of(value_);
    const int code = mdb_put(txn, table, &key, &value, 0);
    if (code == 0) {
        note(row);
        counters_.rows = rows_;
    }
    return code;
}

void EventTable::note(const EventRow& row) {
    ++rows_;
    auto& share = shares_[row.uid];
    ((row.flags & EventRow::wide) != 0 ? share.wide : share.exact) += 1;
}

bool EventTable::has_room(const EventRow& row) const {
    const auto found = shares_.find(row.uid);
    const Share share = found == shares_.end() ? Share{} : found->second;
    return rows_ < most_rows && ((row.flags & EventRow::wide) != 0 ? share.wide < most_wide
                                                                   : share.exact < most_of_user);
}

} // namespace egress::store
