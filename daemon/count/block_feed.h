// Which blocks changed, for one consumer: the firewall has a feed, and so has each other part that
// follows blocks. A feed holds only keys, each once until it is taken: what is true of a key by
// then, the ledger says.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "daemon/count/table.h"

namespace egress {

class BlockFeed {
  public:
    static constexpr std::size_t most = 3; ///< feeds of one ledger: a row has a bit for each

    BlockFeed(Table& table, std::size_t number)
        : table_(table), bit_(static_cast<std::uint8_t>(1u << number)) {}
    BlockFeed(const BlockFeed&) = delete;

    /// Takes the key that changed longest ago; nullopt: none waits.
    std::optional<Key> next();
    bool empty() const { return keys_.empty(); }
    /// A change of this row waits.
    bool holds(const TableRow& row) const { return (row.feeds & bit_) != 0; }
    /// Puts a row's key at the end, unless it waits already.
    void add(RowId row);
    /// The same by key; nothing happens where the row is gone.
    void add(const Key& key);
    /// Drops what waits. A full comparison that follows says it all.
    void drop();
    void shrink() { keys_.shrink_to_fit(); }

  private:
    Table& table_;
    std::uint8_t bit_;
    std::deque<Key> keys_;
};

} // namespace egress
