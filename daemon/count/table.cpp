#include "daemon/count/table.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

#include <sys/random.h>

namespace egress {

namespace {

constexpr std::size_t first_index = 1024;

} // namespace

Key Key::of(policy::NameId name, const Prefix& prefix, std::uint8_t protocol, std::uint16_t port) {
    return Key{prefix.base.raw(), name, port, protocol, prefix.length, 0};
}

Prefix Key::prefix() const {
    return Prefix{*Address::from_bytes(address), length};
}

std::int32_t pack(Moment moment) {
    return static_cast<std::int32_t>(std::clamp<Moment>(moment, -never32, never32));
}

Moment unpack(std::int32_t seconds) {
    return seconds == never32 ? never : seconds;
}

Table::Table(std::size_t capacity) : index_(first_index, no_slot), capacity_(capacity) {
    if (getrandom(&seed_, sizeof seed_, GRND_NONBLOCK) != sizeof seed_) {
        // Early boot: the remote does not know this either.
        seed_ = reinterpret_cast<std::uintptr_t>(this);
    }
}

/// Seeded, because remote hosts choose the keys: splitmix64's finaliser over the three words.
std::uint64_t Table::hash_of(const Key& key) const {
    std::array<std::uint64_t, 3> words{};
    std::memcpy(words.data(), &key, sizeof key);
    std::uint64_t hash = seed_;
    for (const auto word : words) {
        hash = (hash ^ word) + 0x9e3779b97f4a7c15;
        hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
        hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
        hash ^= hash >> 31;
    }
    return hash;
}

/// Where the key stands in the index, or the empty place where it would.
std::size_t Table::place_of(const Key& key, std::uint64_t hash) const {
    const Slot tag = tag_of(hash);
    std::size_t place = hash & mask();
    while (index_[place] != no_slot) {
        const RowId row = row_in(index_[place]);
        if (index_[place] == (tag | row) && (*this)[row].key == key) {
            break;
        }
        place = (place + 1) & mask();
    }
    return place;
}

RowId Table::find(const Key& key) const {
    const Slot slot = index_[place_of(key, hash_of(key))];
    return slot == no_slot ? no_row : row_in(slot);
}

Table::Ahead Table::look_ahead(const Key& key) const {
    const Ahead ahead{hash_of(key), no_row};
    fetch(&index_[ahead.hash & mask()]);
    return ahead;
}

/// The first place with the tag is nearly always that of the key.
void Table::look_ahead_at_row(Ahead& ahead) const {
    const Slot tag = tag_of(ahead.hash);
    for (std::size_t place = ahead.hash & mask(); index_[place] != no_slot;
         place = (place + 1) & mask()) {
        if ((index_[place] & ~static_cast<Slot>(mask())) == tag) {
            ahead.row = row_in(index_[place]);
            prefetch(ahead.row);
            return;
        }
    }
}

void Table::look_ahead_at_neighbours(const Ahead& ahead) const {
    if (ahead.row == no_row) {
        return;
    }
    for (const RowId row : {(*this)[ahead.row].older, (*this)[ahead.row].newer}) {
        if (row != no_row) {
            prefetch(row);
        }
    }
}

/// Row by row, not place by place: the rows lie in the order in which they are read.
void Table::resize_index(std::size_t slots) {
    index_ = {};
    index_.reserve(slots);
    use_large_pages(index_.data(), slots * sizeof(Slot), slots > few_chunks * chunk_rows * 2);
    index_.assign(slots, no_slot);
    for (RowId row = 0; row < end_; ++row) {
        if (!(*this)[row].used) {
            continue;
        }
        const std::uint64_t hash = hash_of((*this)[row].key);
        std::size_t place = hash & mask();
        while (index_[place] != no_slot) {
            place = (place + 1) & mask();
        }
        index_[place] = tag_of(hash) | row;
    }
}

void Table::add_chunk() {
    chunks_.emplace_back(static_cast<TableRow*>(map_aligned(large_page)));
    const std::size_t count = chunks_.size();
    for (std::size_t i = count == few_chunks + 1 ? 0 : count - 1; i < count; ++i) {
        use_large_pages(chunks_[i].get(), large_page, count > few_chunks);
    }
}

void Table::reserve(std::size_t rows) {
    const std::size_t wanted = std::min(rows, capacity_);
    if (const std::size_t slots = std::bit_ceil(wanted * 2); slots > index_.size()) {
        resize_index(slots);
    }
    heap_.reserve(wanted);
}

RowId Table::add(const Key& key) {
    if ((size_ + 1) * 2 > index_.size()) {
        resize_index(index_.size() * 2);
    }
    RowId row = end_;
    if (!free_.empty()) {
        row = free_.back();
        free_.pop_back();
    } else {
        if (end_ == chunks_.size() * chunk_rows) {
            add_chunk();
        }
        ++end_;
    }
    const std::uint64_t hash = hash_of(key);
    const std::size_t place = place_of(key, hash);
    assert(index_[place] == no_slot);
    index_[place] = tag_of(hash) | row;
    TableRow& fresh = (*this)[row];
    const bool dirty = fresh.dirty;
    fresh = TableRow{};
    fresh.dirty = dirty;
    fresh.key = key;
    fresh.used = true;
    fresh.until = never32;
    ++size_;
    refresh(row);
    return row;
}

void Table::remove(RowId row) {
    heap_remove(row);
    unlink(row);
    drop_past(row);
    drop_id(row);
    // Deletion without tombstones: the following slots of the same run move up.
    const Key& key = (*this)[row].key;
    std::size_t hole = place_of(key, hash_of(key));
    for (std::size_t place = (hole + 1) & mask(); index_[place] != no_slot;
         place = (place + 1) & mask()) {
        const std::size_t home = hash_of((*this)[row_in(index_[place])].key) & mask();
        if (((place - home) & mask()) >= ((place - hole) & mask())) {
            index_[hole] = index_[place];
            hole = place;
        }
    }
    index_[hole] = no_slot;
    const bool dirty = (*this)[row].dirty;
    (*this)[row] = TableRow{};
    (*this)[row].dirty = dirty;
    free_.push_back(row);
    --size_;
}

void Table::unlink(RowId row) {
    TableRow& self = (*this)[row];
    if (self.older != no_row) {
        (*this)[self.older].newer = self.newer;
    } else if (oldest_ == row) {
        oldest_ = self.newer;
    }
    if (self.newer != no_row) {
        (*this)[self.newer].older = self.older;
    } else if (newest_ == row) {
        newest_ = self.older;
    }
    self.older = self.newer = no_row;
}

void Table::refresh(RowId row) {
    unlink(row);
    TableRow& self = (*this)[row];
    if (self.state != store::State::counting) {
        return;
    }
    self.older = newest_;
    if (newest_ != no_row) {
        (*this)[newest_].newer = row;
    }
    newest_ = row;
    if (oldest_ == no_row) {
        oldest_ = row;
    }
}

void Table::set_deadline(RowId row, Moment until) {
    TableRow& self = (*this)[row];
    const std::int32_t packed = pack(until);
    const std::int32_t before = std::exchange(self.until, packed);
    if (packed == never32) {
        heap_remove(row);
    } else if (self.heap == no_row) {
        self.heap = static_cast<std::uint32_t>(heap_.size());
        heap_.push_back({packed, row});
        sift_up(self.heap);
    } else if (packed < before && packed < heap_[self.heap].until) {
        heap_[self.heap].until = packed;
        sift_up(self.heap);
    }
}

RowId Table::due(Moment now, std::size_t& most) {
    while (most > 0 && no_deadline_before() <= now) {
        most -= 1;
        const RowId first = heap_.front().row;
        const std::int32_t until = (*this)[first].until;
        if (unpack(until) <= now) {
            return first;
        }
        heap_.front().until = until;
        sift_down(0);
    }
    return no_row;
}

Moment Table::no_deadline_before() const {
    return heap_.empty() ? never : unpack(heap_.front().until);
}

void Table::set_heap(std::uint32_t place, Deadline deadline) {
    heap_[place] = deadline;
    (*this)[deadline.row].heap = place;
}

void Table::sift_up(std::uint32_t place) {
    const Deadline moving = heap_[place];
    while (place > 0) {
        const std::uint32_t parent = (place - 1) / 2;
        if (heap_[parent].until <= moving.until) {
            break;
        }
        set_heap(place, heap_[parent]);
        place = parent;
    }
    set_heap(place, moving);
}

void Table::sift_down(std::uint32_t place) {
    const Deadline moving = heap_[place];
    const auto size = static_cast<std::uint32_t>(heap_.size());
    while (true) {
        std::uint32_t child = place * 2 + 1;
        if (child >= size) {
            break;
        }
        if (child + 1 < size && heap_[child + 1].until < heap_[child].until) {
            ++child;
        }
        if (heap_[child].until >= moving.until) {
            break;
        }
        set_heap(place, heap_[child]);
        place = child;
    }
    set_heap(place, moving);
}

void Table::heap_remove(RowId row) {
    const std::uint32_t place = (*this)[row].heap;
    if (place == no_row) {
        return;
    }
    (*this)[row].heap = no_row;
    const Deadline moved = heap_.back();
    heap_.pop_back();
    if (moved.row != row) {
        set_heap(place, moved);
        sift_up(place);
        sift_down((*this)[moved.row].heap);
    }
}

Past& Table::past(RowId row) {
    (*this)[row].has_past = true;
    return past_[row];
}

const Past* Table::find_past(RowId row) const {
    const auto found = past_.find(row);
    return found == past_.end() ? nullptr : &found->second;
}

const std::string& Table::id(RowId row) const {
    static const std::string none;
    const auto found = ids_.find(row);
    return found == ids_.end() ? none : found->second;
}

void Table::set_id(RowId row, std::string_view id) {
    ids_[row] = id;
    (*this)[row].has_id = true;
}

void Table::drop_id(RowId row) {
    if ((*this)[row].has_id) {
        ids_.erase(row);
        (*this)[row].has_id = false;
    }
}

void Table::drop_past(RowId row) {
    if ((*this)[row].has_past) {
        past_.erase(row);
        (*this)[row].has_past = false;
    }
}

} // namespace egress
