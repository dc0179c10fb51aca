// The rows in memory, for counts and blocks; found by key, by age and by deadline.
//
// A row is 64 bytes, one line of the cache, in a chunk that never moves. An open-addressed index of
// row numbers finds it by key, a heap orders the deadlines, and a list orders the counting rows by
// their last use (a full table evicts the first of the list). No operation scans the rows.
//
// Among a million rows, each row that is touched is a cache miss, which costs more than all that is
// computed. So the index has a part of the hash beside the number, and the heap the deadline: they
// look at few rows but the one that is meant. A deadline that moves to later, as with every report,
// leaves the heap alone: the row comes up too early, once, and gets its right place then. Who needs
// several rows has their misses waited for together (look_ahead). And a large table lies in large
// pages; a small one does not, as each would be taken as a whole.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/clock.h"
#include "daemon/base/memory.h"
#include "daemon/policy/login/match.h"
#include "daemon/store/records.h"

namespace egress {

/// Key of a row. 24 bytes without holes, so that its bytes can be hashed directly.
struct Key {
    std::array<std::uint8_t, 16> address{}; ///< network order, IPv4 mapped, host bits zero
    policy::NameId name = 0;
    std::uint16_t port = 0; ///< host byte order; 0: every port
    std::uint8_t protocol = 0;
    std::uint8_t length = 0; ///< prefix length in the family's own bits
    std::uint16_t unused = 0;

    static Key of(policy::NameId name, const Prefix& prefix, std::uint8_t protocol,
                  std::uint16_t port);
    Prefix prefix() const;
    friend bool operator==(const Key&, const Key&) = default;
};
static_assert(sizeof(Key) == 24);

using RowId = std::uint32_t;
inline constexpr RowId no_row = 0xffffffff;

struct alignas(64) TableRow {
    Key key;
    store::State state = store::State::counting;
    std::uint8_t flags = 0; ///< store::Flag
    std::uint8_t grow_length = 0;
    bool used : 1 = false;
    /// Its number stands in the list of rows to make durable; outlives the row.
    bool dirty : 1 = false;
    std::uint8_t feeds : 3 = 0; ///< the feeds in which its key waits (BlockFeed)
    bool has_past : 1 = false;  ///< has a failure history (Table::past)
    bool has_id : 1 = false;    ///< has a helper's handle (Table::id)
    bool stored : 1 = false;    ///< the database may hold it
    std::uint32_t count = 0;
    std::uint32_t nfail = 0; ///< 0: "*"
    std::uint16_t strikes = 0;
    std::uint16_t reason = 0;
    std::int32_t last = 0;       ///< seconds since boot (negative: before it)
    std::int32_t since = 0;      ///< 0: not blocked
    std::int32_t until = 0;      ///< deadline of the state; never32
    std::uint32_t heap = no_row; ///< place in the heap; no_row: no deadline
    RowId older = no_row;        ///< list by age, counting rows only
    RowId newer = no_row;
};
static_assert(sizeof(TableRow) == 64);

inline constexpr std::int32_t never32 = 0x7fffffff;

/// Moment -> the 32 bits of a row, saturating.
std::int32_t pack(Moment moment);
Moment unpack(std::int32_t seconds);

/// A failure history: (moment, failures), oldest first, at most store::max_history.
using Past = std::vector<std::pair<std::int32_t, std::uint16_t>>;

class Table {
  public:
    explicit Table(std::size_t capacity);

    /// Prepares for that many rows in all, as far as the capacity allows. More may come.
    void reserve(std::size_t rows);

    RowId find(const Key& key) const; ///< no_row: none
    TableRow& operator[](RowId row) { return chunks_[row / chunk_rows][row % chunk_rows]; }
    const TableRow& operator[](RowId row) const {
        return chunks_[row / chunk_rows][row % chunk_rows];
    }

    /// Has the processor fetch the row, which is needed soon.
    void prefetch(RowId row) const { fetch(&(*this)[row]); }

    /// A new row in state counting; the key must not exist. Never fails: the caller ensures room.
    RowId add(const Key& key);
    void remove(RowId row);

    std::size_t size() const { return size_; }
    std::size_t capacity() const { return capacity_; }
    void set_capacity(std::size_t rows) { capacity_ = rows; }
    bool full() const { return size_ >= capacity_; }
    /// The least recently used counting row; no_row: every row blocks.
    RowId oldest_counting() const { return oldest_; }
    /// Number of row numbers allotted so far: `0 .. rows_end()-1` may be `used`.
    RowId rows_end() const { return end_; }

    /// Moves a counting row to the young end of the list by age; removes other rows from it.
    void refresh(RowId row);
    /// What look_ahead() has found out about a key. A hint: find() decides.
    struct Ahead {
        std::uint64_t hash = 0;
        RowId row = no_row;
    };
    /// Before find() and a change of the row: each step has the processor fetch what the next one
    /// reads. Worth it if the same step is taken for other keys in between.
    Ahead look_ahead(const Key& key) const;
    void look_ahead_at_row(Ahead& ahead) const;
    void look_ahead_at_neighbours(const Ahead& ahead) const;

    /// Sets `until`, which is what due() goes by.
    void set_deadline(RowId row, Moment until);
    /// A row whose deadline has passed by `now`; no_row: none. Each row that it looks at takes one
    /// from `most`, and with none left it gives up.
    RowId due(Moment now, std::size_t& most);
    /// No deadline comes before this moment; `never`: there is none.
    Moment no_deadline_before() const;

    Past& past(RowId row);
    void drop_past(RowId row);
    const Past* find_past(RowId row) const;

    /// The helper's handle for the row; empty: none.
    const std::string& id(RowId row) const;
    void set_id(RowId row, std::string_view id);
    void drop_id(RowId row);

  private:
    static constexpr std::size_t chunk_rows = large_page / sizeof(TableRow);
    static constexpr std::size_t few_chunks = 4; ///< of a small table
    struct Unmap {
        void operator()(TableRow* rows) const { unmap(rows, large_page); }
    };
    using Chunk = std::unique_ptr<TableRow[], Unmap>;

    static void fetch(const void* bytes) {
        __builtin_prefetch(bytes);
        asm volatile(""); // without it g++ sees no effect, and leaves out the calls of this
    }

    /// A place of the index: a row's number in the low bits, as many as the index has, and as much
    /// of the hash of its key as fits above. Never no_slot, as there are half as many rows.
    using Slot = std::uint32_t;
    static constexpr Slot no_slot = 0xffffffff;
    /// A place of the heap.
    struct Deadline {
        std::int32_t until; ///< that of the row, or an earlier one
        RowId row;
    };

    std::uint64_t hash_of(const Key& key) const;
    std::size_t mask() const { return index_.size() - 1; }
    RowId row_in(Slot slot) const { return slot & static_cast<Slot>(mask()); }
    Slot tag_of(std::uint64_t hash) const {
        return static_cast<Slot>(hash >> 32u) & ~static_cast<Slot>(mask());
    }
    std::size_t place_of(const Key& key, std::uint64_t hash) const;
    void add_chunk();
    void resize_index(std::size_t slots);
    void unlink(RowId row);
    void heap_remove(RowId row);
    void sift_up(std::uint32_t place);
    void sift_down(std::uint32_t place);
    void set_heap(std::uint32_t place, Deadline deadline);

    std::vector<Chunk> chunks_;
    std::vector<Slot> index_; // power of two, linear probing, at most half full
    std::vector<Deadline> heap_;
    std::vector<RowId> free_;
    std::unordered_map<RowId, Past> past_;
    std::unordered_map<RowId, std::string> ids_;
    std::size_t size_ = 0;
    std::size_t capacity_;
    RowId end_ = 0;
    RowId oldest_ = no_row;
    RowId newest_ = no_row;
    std::uint64_t seed_;
};

} // namespace egress
