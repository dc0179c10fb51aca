// Adds counts to the table of events, within bounds, because local users decide how many kinds
// exist.
//
// Each user has a share, so that a flood displaces no other user's rows. Beyond it destinations are
// folded into one row per program, port and protocol; beyond that all go into one row per action.
// Rows that have not changed for three months are deleted. Runs on the store's writer thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <unordered_map>

#include "daemon/store/event_row.h"
#include "daemon/store/transaction.h"

namespace egress::store {

class EventTable {
  public:
    static constexpr std::size_t most_rows = 65'536;
    static constexpr std::size_t most_of_user = 4'096; ///< rows with an address of their own
    static constexpr std::size_t most_wide = 512;      ///< rows of one user without an address
    static constexpr std::uint32_t remembered = 90 * 24 * 60 * 60; ///< seconds

    /// For the status; read from any thread.
    struct Counters {
        std::atomic<std::uint64_t> rows{0};
        std::atomic<std::uint64_t> widened{0};    ///< events whose destination was folded
        std::atomic<std::uint64_t> overflowed{0}; ///< events that found no row
    };

    /// Adds the row's count to the table within a transaction. Returns LMDB's code.
    int add(Transaction& txn, const EventRow& row);
    /// Call after a transaction failed: the next add() counts the table again.
    void forget() { known_ = false; }

    const Counters& counters() const { return counters_; }

  private:
    struct Share {
        std::size_t exact = 0;
        std::size_t wide = 0;
    };
    struct Merged {
        int code = 0;
        bool found = false;
    };
    int take_inventory(Transaction& txn, std::uint32_t now);
    Merged merge_into(Transaction& txn, const EventRow& row);
    int insert(Transaction& txn, const EventRow& row);
    void encode_value_of(const EventRow& row);
    void note(const EventRow& row);
    bool has_room(const EventRow& row) const;

    bool known_ = false;
    std::uint32_t inventory_ = 0; ///< time of the last inventory, wall-clock seconds
    std::size_t rows_ = 0;
    std::unordered_map<std::uint32_t, Share> shares_;
    std::vector<std::uint8_t> key_;
    std::vector<std::uint8_t> value_;
    Counters counters_;
};

} // namespace egress::store
