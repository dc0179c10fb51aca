// Sums of the kernel's events until the store takes them: one row per kind of event.
//
// Bounded, with a share for each user: a flood of distinct destinations folds only the flooder's
// rows, and events without room are counted as such (store/event_table.h does the same in the
// database).
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <unordered_map>

#include "daemon/store/store.h"

namespace egress {

class EventCounts {
  public:
    static constexpr std::size_t most = 8'192;         ///< rows
    static constexpr std::size_t most_of_user = 2'048; ///< rows of one user
    static constexpr std::size_t most_wide = 256; ///< additional rows of one user without address

    void add(const store::EventRow& row);
    std::uint64_t widened() const { return widened_; }       ///< events, so far
    std::uint64_t overflowed() const { return overflowed_; } ///< events, so far
    bool changed() const { return !rows_.empty(); }
    std::size_t size() const { return rows_.size(); }
    /// Moves everything into the batch.
    void collect(store::Batch& batch);

  private:
    bool take(const store::EventRow& row, std::size_t most_now);

    std::map<std::vector<std::uint8_t>, store::EventRow> rows_; ///< by key in the database
    std::unordered_map<std::uint32_t, std::size_t> of_user_;
    std::vector<std::uint8_t> key_;
    std::uint64_t widened_ = 0;
    std::uint64_t overflowed_ = 0;
};

} // namespace egress
