#include "daemon/count/block_feed.h"

namespace egress {

std::optional<Key> BlockFeed::next() {
    while (!keys_.empty()) {
        const Key key = keys_.front();
        keys_.pop_front();
        const RowId id = table_.find(key);
        if (id != no_row && holds(table_[id])) {
            table_[id].feeds &= static_cast<std::uint8_t>(~bit_);
            return key;
        }
    }
    return std::nullopt;
}

void BlockFeed::add(RowId id) {
    TableRow& row = table_[id];
    if (!holds(row)) {
        row.feeds |= bit_;
        keys_.push_back(row.key);
    }
}

void BlockFeed::add(const Key& key) {
    if (const RowId id = table_.find(key); id != no_row) {
        add(id);
    }
}

void BlockFeed::drop() {
    while (next()) {
    }
    std::deque<Key>().swap(keys_); // a start may have put every row there
}

} // namespace egress
