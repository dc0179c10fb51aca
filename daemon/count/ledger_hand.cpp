// The ledger's side of an operator who asks: what covers an address, which lines count it, and how
// to forget it.
#include "daemon/count/ledger.h"
#include "daemon/count/ledger_bits.h"

namespace egress {

using store::State;

namespace {

/// All of `inner` lies in `outer`.
bool covers(const Prefix& outer, const Prefix& inner) {
    return outer.length <= inner.length && outer.base.family() == inner.base.family() &&
           outer.contains(inner.base);
}

} // namespace

bool Ledger::covers_row(const Prefix& outer, const TableRow& row) const {
    return row.used && covers(outer, row.key.prefix());
}

bool Ledger::row_covers(const TableRow& row, const Prefix& inner) const {
    return row.used && covers(row.key.prefix(), inner);
}

bool Ledger::forget_by_hand(RowId id) {
    if (!table_[id].used) {
        return false;
    }
    if (table_[id].state == State::counting) {
        forget(id);
        return true;
    }
    table_[id].strikes = 0;
    if (!lift_by_hand(id)) { // the firewall is removing it
        table_[id].count = 0;
        table_.drop_past(id);
        mark(id);
    }
    return true;
}

std::optional<policy::EffectiveRule> Ledger::rule_for(const Endpoint& local, const Address& remote,
                                                      int type, int protocol,
                                                      std::uint32_t uid) const {
    policy::Subject subject;
    subject.local = local;
    subject.interface = interfaces_.name_of(local.address);
    subject.remote = {remote, 0};
    subject.remote_own = interfaces_.is_own(remote);
    subject.type = type;
    subject.protocol = protocol;
    subject.uid = uid;
    policy::EffectiveRule rule;
    return matcher_->match(subject, rule) ? std::optional(rule) : std::nullopt;
}

void Ledger::watch_blocks(bool wanted) {
    watched_ = wanted;
    if (!wanted) {
        changes_ = {};
        missed_changes_ = 0;
    }
}

std::optional<BlockChange> Ledger::next_change() {
    if (changes_.empty()) {
        return std::nullopt;
    }
    auto change = changes_.front();
    changes_.pop_front();
    return change;
}

void Ledger::note(const Key& key, Effect effect, const char* why) {
    if (!watched_) {
        return;
    }
    if (changes_.size() < most_changes) {
        changes_.push_back({key, effect, why});
    } else {
        ++missed_changes_;
    }
}

} // namespace egress
