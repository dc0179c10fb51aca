// The ledger's side of the store: converts rows to and from their durable form.
#include <algorithm>

#include "daemon/count/ledger.h"
#include "daemon/count/ledger_bits.h"

namespace egress {

namespace {

using store::State;

std::uint32_t stored_time(std::int64_t base, std::int32_t packed) {
    if (packed == never32) {
        return store::until_forever;
    }
    return static_cast<std::uint32_t>(
        std::clamp<std::int64_t>(unpack(packed) + base, 1, store::until_forever - 1));
}

std::int32_t packed_time(std::int64_t base, std::uint32_t stored) {
    return stored == store::until_forever ? never32 : pack(stored - base);
}

} // namespace

/// A wrong wall clock at start (1970, no battery) must not lengthen a block: the remaining time is
/// never more than the row's whole span.
Moment Ledger::deadline_of(const store::Row& stored, Moment now) const {
    if (stored.until == store::until_forever) {
        return never;
    }
    const std::int64_t until = stored.until;
    const std::int64_t start = stored.since != 0 ? stored.since : stored.last;
    const std::int64_t remaining = std::min(until - stored_base_ - now, until - start);
    return now + std::max<std::int64_t>(remaining, 0);
}

void Ledger::snapshot(RowId id, store::Row& out, std::int64_t base) const {
    const TableRow& row = table_[id];
    out.name = names_.text(row.key.name);
    out.address = row.key.prefix();
    out.protocol = row.key.protocol;
    out.port = row.key.port;
    out.state = row.state;
    out.flags = with(row.flags, store::monitor, options_.monitor && row.state == State::blocked);
    out.grow_length = row.grow_length;
    out.count = row.count;
    out.nfail = row.nfail;
    out.strikes = row.strikes;
    out.last = stored_time(base, row.last);
    out.since = row.since == 0 ? 0 : stored_time(base, row.since);
    out.until = stored_time(base, row.until);
    out.history.clear();
    if (row.has_past) {
        if (const Past* const past = table_.find_past(id)) {
            for (const auto& [time, failures] : *past) {
                out.history.push_back({stored_time(base, time), failures});
            }
        }
    }
    out.id.clear();
    if (row.has_id) {
        out.id = table_.id(id);
    }
    out.reason = reasons_.text(row.reason);
}

void Ledger::load(const store::Row& stored, Moment now) {
    const Key key =
        Key::of(names_.number(stored.name), stored.address, stored.protocol, stored.port);
    if (table_.find(key) != no_row) {
        return;
    }
    services_.enter(key, State::counting);
    const RowId id = table_.add(key);
    TableRow& row = table_[id];
    row.flags = static_cast<std::uint8_t>(stored.flags & ~(store::monitor | store::in_force));
    set_state(row, stored.state);
    // Who only monitors lifts the blocks.
    set_in_force(row, stored.state == State::blocked && (stored.flags & store::in_force) != 0 &&
                          (stored.flags & store::monitor) == 0 && !options_.monitor);
    row.grow_length = stored.grow_length;
    row.count = stored.count;
    row.nfail = stored.nfail;
    row.strikes = stored.strikes;
    row.stored = true;
    row.last = std::min(packed_time(stored_base_, stored.last), pack(now));
    row.since =
        stored.since == 0 ? 0 : std::min(packed_time(stored_base_, stored.since), pack(now));
    row.reason = reasons_.number(stored.reason);
    table_.set_deadline(id, deadline_of(stored, now));
    for (const auto& [time, failures] : stored.history) {
        table_.past(id).emplace_back(packed_time(stored_base_, time), failures);
    }
    if (!stored.id.empty()) {
        table_.set_id(id, stored.id);
    }
    if (packed_time(stored_base_, stored.last) != row.last ||
        packed_time(stored_base_, stored.until) != row.until ||
        (options_.monitor && row.state == State::blocked)) {
        mark(id); // the clock was wrong, or it is lifted: what is stored does not say what holds
    }
    table_.refresh(id);
    if (row.state == State::releasing ||
        (row.state == State::blocked && (row.flags & store::in_force) == 0)) {
        feed(id);
    }
}

void Ledger::shrink() {
    dirty_.shrink_to_fit();
    for (const auto& feed : feeds_) {
        feed->shrink();
    }
    if (erased_.empty()) {
        erased_ = store::Batch{};
    }
}

void Ledger::collect(store::Batch& batch, std::size_t most) {
    constexpr std::size_t rows_ahead = 8; // as long as memory takes to answer
    batch.append(erased_);
    erased_.clear();
    while (!dirty_.empty() && batch.size() < most) {
        const RowId id = dirty_.front().first;
        dirty_.pop_front();
        if (dirty_.size() > rows_ahead) {
            table_.prefetch(dirty_[rows_ahead].first);
        }
        TableRow& row = table_[id];
        row.dirty = false;
        if (row.used) { // else it was removed meanwhile, and the batch has its deletion
            row.stored = true;
            snapshot(id, scratch_, stored_base_);
            batch.put(scratch_);
        }
    }
    collected_ = dirty_.empty() ? pushed_ : dirty_.front().second - 1;
}

} // namespace egress
