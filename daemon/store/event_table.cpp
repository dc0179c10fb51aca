#include "daemon/store/event_table.h"

namespace egress::store {

namespace {

constexpr std::uint32_t day = 24 * 60 * 60;

} // namespace

int EventTable::add(Transaction& txn, const EventRow& row) {
    if (!known_ || row.last >= inventory_ + day) {
        if (const int code = take_inventory(txn, row.last); code != 0) {
            return code;
        }
    }
    for (const auto& each : {row, widened(row)}) {
        const auto [code, found] = merge_into(txn, each);
        if (code != 0 || found) {
            return code;
        }
        if (has_room(each)) {
            return insert(txn, each);
        }
        if ((each.flags & EventRow::wide) == 0) {
            counters_.widened += row.count;
        }
    }
    counters_.overflowed += row.count;
    const auto rest = overflowed(row);
    const auto [code, found] = merge_into(txn, rest);
    return code != 0 || found ? code : insert(txn, rest);
}

/// Counts the rows, and deletes those that have not changed for long.
int EventTable::take_inventory(Transaction& txn, std::uint32_t now) {
    MDB_cursor* cursor = nullptr;
    if (const int code = mdb_cursor_open(txn.handle(), txn.dbi(TableId::events), &cursor);
        code != 0) {
        return code;
    }
    shares_.clear();
    rows_ = 0;
    std::vector<Bytes> old;
    MDB_val key{};
    MDB_val value{};
    int code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; code == 0; code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        const auto body = checked(view_of(key), view_of(value));
        const auto row = body ? decode_event(view_of(key), *body) : std::nullopt;
        if (!row) {
            continue; // damaged since open(): the next open() sets it aside
        }
        if (now > remembered && row->last < now - remembered) {
            const View bytes = view_of(key);
            old.emplace_back(bytes.begin(), bytes.end());
        } else {
            note(*row);
        }
    }
    mdb_cursor_close(cursor);
    code = code == MDB_NOTFOUND ? 0 : code;
    for (const auto& each : old) {
        code = code == 0 ? txn.erase(TableId::events, each) : code;
    }
    if (code != 0) {
        return code;
    }
    known_ = true;
    inventory_ = now;
    counters_.rows = rows_;
    return 0;
}

EventTable::Merged EventTable::merge_into(Transaction& txn, const EventRow& row) {
    key_.clear();
    encode_key(row, key_);
    const auto got = txn.get(TableId::events, key_);
    if (got.code != 0) {
        return {got.code == MDB_NOTFOUND ? 0 : got.code, false};
    }
    EventRow sum = row;
    if (const auto before = decode_event(key_, *got.body)) {
        merge(sum, *before);
    }
    encode_value_of(sum);
    return {txn.put(TableId::events, key_, value_), true};
}

int EventTable::insert(Transaction& txn, const EventRow& row) {
    key_.clear();
    encode_key(row, key_);
    encode_value_of(row);
    const int code = txn.put(TableId::events, key_, value_);
    if (code == 0) {
        note(row);
        counters_.rows = rows_;
    }
    return code;
}

void EventTable::encode_value_of(const EventRow& row) {
    value_.clear();
    encode_value(row, value_);
    append_checksum(key_, value_);
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
