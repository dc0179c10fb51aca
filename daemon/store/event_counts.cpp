#include "daemon/store/event_counts.h"

#include <utility>

namespace egress {

void EventCounts::add(const store::EventRow& row) {
    if (take(row, most_of_user)) {
        return;
    }
    if (take(store::widened(row), most_of_user + most_wide)) {
        widened_ += row.count;
        return;
    }
    overflowed_ += row.count;
    take(store::overflowed(row), most); // only a few such rows: they always fit
}

bool EventCounts::take(const store::EventRow& row, std::size_t most_now) {
    key_.clear();
    store::encode_key(row, key_);
    if (const auto found = rows_.find(key_); found != rows_.end()) {
        store::merge(found->second, row);
        return true;
    }
    const bool last_resort = (row.flags & store::EventRow::overflow) != 0;
    auto& of_user = of_user_[row.uid];
    if (!last_resort && (rows_.size() >= most || of_user >= most_now)) {
        return false;
    }
    ++of_user;
    rows_.emplace(key_, row);
    return true;
}

void EventCounts::collect(store::Batch& batch) {
    for (auto& [key, row] : std::exchange(rows_, {})) {
        batch.count(std::move(row));
    }
    of_user_.clear();
}

} // namespace egress
