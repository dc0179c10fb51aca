// The ledger's side of the firewall: wanted, confirmed and adopted blocks.
#include <algorithm>
#include <cassert>

#include "daemon/base/log.h"
#include "daemon/base/words.h"
#include "daemon/count/ledger.h"
#include "daemon/count/ledger_bits.h"

namespace egress {

using store::State;

BlockFeed& Ledger::follow_blocks() {
    assert(feeds_.size() < BlockFeed::most);
    return *feeds_.emplace_back(std::make_unique<BlockFeed>(table_, feeds_.size()));
}

std::optional<Key> Ledger::next_kill() {
    if (kills_.empty()) {
        return std::nullopt;
    }
    const Key key = kills_.front();
    kills_.pop_front();
    counters_.killed += 1;
    return key;
}

Element Ledger::element(const Key& key) const {
    Element element{
        names_.text(key.name), key.prefix(), key.protocol, key.port, forever, false, {}};
    if (const RowId id = table_.find(key); id != no_row && table_[id].has_id) {
        element.id = table_.id(id);
    }
    return element;
}

bool Ledger::wanted(RowId id, Element& out) const {
    const TableRow& row = table_[id];
    if (!row.used || row.state != State::blocked || options_.monitor) {
        return false;
    }
    out.name = names_.text(row.key.name);
    out.address = row.key.prefix();
    out.protocol = row.key.protocol;
    out.port = row.key.port;
    out.reject = (row.flags & store::reject) != 0;
    out.seconds = row.until == never32 ? forever : unpack(row.until) - clock_.now();
    return out.seconds > 0;
}

std::optional<Element> Ledger::wanted(const Key& key) const {
    Element out;
    const RowId id = table_.find(key);
    if (id == no_row || !wanted(id, out)) {
        return std::nullopt;
    }
    return out;
}

void Ledger::confirm(const Key& key, bool present, std::string_view handle) {
    const RowId id = table_.find(key);
    if (id == no_row) {
        return;
    }
    TableRow& row = table_[id];
    if (present && row.state == State::releasing && !handle.empty()) {
        table_.set_id(id, handle); // needed for the removal
        mark(id);
    } else if (present && row.state == State::blocked) {
        const bool known = (row.flags & store::in_force) != 0;
        if (!handle.empty() && table_.id(id) != handle) {
            table_.set_id(id, handle);
        } else if (known) {
            return;
        }
        set_in_force(row, true);
        mark(id);
    } else if (!present && row.state == State::releasing) {
        table_.drop_id(id);
        apply(id, released(count_of(row), clock_.now()));
    }
}

void Ledger::deny(const Key& key) {
    const RowId id = table_.find(key);
    if (id != no_row && (table_[id].flags & store::in_force) != 0) {
        set_in_force(table_[id], false);
        mark(id);
    }
}

void Ledger::distrust() {
    for (RowId id = 0; id < table_.rows_end(); ++id) {
        TableRow& row = table_[id];
        if (row.used && row.state == State::blocked) {
            set_in_force(row, false);
            mark(id);
            feed(id);
        }
    }
}

void Ledger::add_pending(BlockFeed& feed) const {
    for (RowId id = 0; id < table_.rows_end(); ++id) {
        const TableRow& row = table_[id];
        const bool unconfirmed = row.state == State::blocked && (row.flags & store::in_force) == 0;
        if (!options_.monitor && row.used && (unconfirmed || row.state == State::releasing)) {
            feed.add(id);
        }
    }
}

void Ledger::adopt(const Element& element) {
    const Key key =
        Key::of(names_.number(element.name), element.address, element.protocol, element.port);
    RowId id = table_.find(key);
    if (id != no_row && table_[id].state == State::releasing) {
        return; // lifted; the firewall had not yet removed it
    }
    if (id == no_row && (id = row_for(key)) == no_row) {
        return;
    }
    Count counted = count_of(table_[id]);
    const Moment now = clock_.now();
    const Moment until = after(now, element.seconds);
    if (counted.state == State::blocked) {
        if (until > counted.until) { // a crash came before the extension was durable
            counted.until = until;
            apply(id, RowChange{counted, Effect::none});
        }
        return;
    }
    // The row is counting or new: a crash came before the block was durable.
    counted.count = std::max(counted.count, table_[id].nfail);
    counted.state = State::blocked;
    counted.last = now;
    counted.since = now;
    counted.until = until;
    apply(id, RowChange{counted, Effect::none});
    TableRow& row = table_[id];
    row.flags = with(row.flags, store::reject, element.reject);
    row.reason = reasons_.number("found in the firewall at start");
    set_in_force(row, true);
    log::notice("adopt", "block of {}{} stood in the firewall and not in the database; remembered",
                element.address.text(), at_port(element.port));
    if (const auto* const line = exemption_of(row)) {
        log::notice("exempt", "lift the block of {}{}: {} exempts it", element.address.text(),
                    at_port(element.port), line->place.text());
        lift_and_clear(id, "exempt");
    }
}

std::vector<std::string> Ledger::names() const {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < names_.size(); ++i) {
        names.push_back(names_.text(static_cast<std::uint16_t>(i)));
    }
    return names;
}

} // namespace egress
