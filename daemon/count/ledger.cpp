#include "daemon/count/ledger.h"

#include "daemon/base/log.h"
#include "daemon/base/words.h"
#include "daemon/count/ledger_bits.h"

namespace egress {

namespace {

using store::State;

constexpr std::size_t default_rows = 1'000'000;

std::size_t rows_of(const policy::Policy& policy) {
    return policy.settings.rows ? static_cast<std::size_t>(*policy.settings.rows) : default_rows;
}

/// True if the line's cgroup, where it names one, is the reporter's.
bool admits(const policy::Trusted& line, const Reporter& reporter) {
    return line.cgroup.empty() ||
           (reporter.process != nullptr && reporter.process->inside(line.cgroup));
}

} // namespace

Ledger::Ledger(const Clock& clock, const Interfaces& interfaces, Options options,
               policy::Policy policy)
    : clock_(clock), interfaces_(interfaces), options_(std::move(options)),
      stored_base_(clock.at_boot()), names_(options_.standard_name), reasons_(""),
      table_(options_.rows) {
    replace(std::move(policy));
}

void Ledger::replace(policy::Policy policy) {
    table_.set_capacity(rows_of(policy));
    rule_reasons_.clear();
    owners_.clear();
    const auto note = [&](const auto& lines) {
        for (const auto& line : lines) {
            if (line.owner && line.absent_owner.empty()) {
                owners_.insert(*line.owner);
            }
        }
    };
    note(policy.local);
    note(policy.remote);
    note(policy.trusted);
    pass_number_ += 1;
    matcher_ = std::make_unique<policy::Matcher>(
        std::move(policy), options_.standard_name,
        [this](std::string_view name) { return names_.number(name); });
    exemptions_ = policy::Exemptions(matcher_->policy().remote);
    look_for_exempt();
}

bool Ledger::service_of(const Reporter& reporter, Endpoint& local, int& type, int& protocol) const {
    const auto fits = [&](const policy::Trusted& line) { return admits(line, reporter); };
    const policy::Trusted* const line = matcher_->trusted(reporter.uid, fits);
    if (line == nullptr) {
        // Root may report anything; its service is unknown, so only "*" lines match.
        return reporter.uid == 0;
    }
    local.address = line->location.prefix ? line->location.prefix->base : Address();
    local.port = line->location.port.value_or(0);
    type = line->type.value_or(0);
    protocol = line->protocol.number.value_or(0);
    return true;
}

bool Ledger::vouches(const Reporter& reporter, const Endpoint& local, int type,
                     int protocol) const {
    const auto fits = [&](const policy::Trusted& line) {
        return policy::is_for(line, local, type, protocol) && admits(line, reporter);
    };
    return matcher_->trusted(reporter.uid, fits) != nullptr;
}

bool Ledger::is_known(std::uint32_t uid) const {
    return uid == 0 || owners_.contains(uid);
}

RowId Ledger::row_for(const Key& key) {
    while (table_.full()) {
        const RowId victim = table_.oldest_counting();
        if (victim == no_row) {
            counters_.table_full += 1;
            log::error("table-full",
                       "all {} rows are blocks: a failure cannot be counted; raise \"rows\" "
                       "in [settings]",
                       table_.capacity());
            return no_row;
        }
        counters_.evicted += 1;
        forget(victim);
    }
    services_.enter(key, State::counting);
    return table_.add(key);
}

void Ledger::set_state(TableRow& row, State state) {
    if (row.state != state) {
        services_.leave(row.key, row.state);
        services_.enter(row.key, state);
    }
    blocked_ += (state == State::blocked) - (row.state == State::blocked);
    releasing_ += (state == State::releasing) - (row.state == State::releasing);
    if (state != State::blocked) {
        set_in_force(row, false);
    }
    row.state = state;
}

void Ledger::set_in_force(TableRow& row, bool in_force) {
    const bool before = (row.flags & store::in_force) != 0;
    in_force_ += in_force - before;
    row.flags = with(row.flags, store::in_force, in_force);
}

void Ledger::apply(RowId id, const RowChange& outcome, const char* why) {
    TableRow& row = table_[id];
    const bool was_blocked = row.state == State::blocked;
    if (outcome.effect == Effect::forget) {
        forget(id);
        return;
    }
    if (was_blocked && outcome.next.state != State::blocked) {
        leave_group(row);
        row.grow_length = 0;
    }
    set_state(row, outcome.next.state);
    row.flags =
        with(row.flags, store::by_hand, outcome.next.by_hand && row.state == State::blocked);
    row.count = outcome.next.count;
    row.strikes = outcome.next.strikes;
    row.last = pack(outcome.next.last);
    row.since = outcome.next.state == State::blocked ? pack(outcome.next.since) : 0;
    table_.set_deadline(id, outcome.next.until);
    table_.refresh(id);
    mark(id);
    if (outcome.effect != Effect::none) {
        note(row.key, outcome.effect, outcome.effect == Effect::lift ? why : "");
    }
    switch (outcome.effect) {
    case Effect::block:
        counters_.blocks += 1;
        services_.of(row.key).blocks += 1;
        feed(id);
        break;
    case Effect::extend:
        counters_.extended += 1;
        feed(id);
        break;
    case Effect::lift:
        lift(id);
        break;
    case Effect::none:
    case Effect::forget:
        break;
    }
}

void Ledger::join_group(RowId id, const policy::EffectiveRule& rule) {
    const Prefix member = table_[id].key.prefix();
    if (rule.grow.count == 0 || rule.grow.length >= member.length || table_[id].grow_length != 0) {
        return;
    }
    const Key& key = table_[id].key;
    const Key group =
        Key::of(key.name, Prefix::around(member.base, rule.grow.length), key.protocol, key.port);
    RowId group_id = table_.find(group);
    if (group_id == no_row && (group_id = row_for(group)) == no_row) {
        return;
    }
    table_[id].grow_length = rule.grow.length;
    // The group counts blocked members as failures, so the same decision applies.
    policy::EffectiveRule group_rule = rule;
    group_rule.limited = true;
    group_rule.nfail = rule.grow.count;
    group_rule.window = forever;
    Past none;
    const RowChange outcome =
        decide(group_rule, count_of(table_[group_id]), none, Action::fail, clock_.now());
    table_[group_id].nfail = rule.grow.count;
    apply(group_id, outcome);
    if (outcome.next.state == State::counting) {
        table_.set_deadline(group_id, never); // it ends with its last member, not by age
    }
    if (outcome.effect == Effect::block) {
        TableRow& row = table_[group_id];
        row.flags = with(row.flags, store::reject, rule.reject);
        row.reason = reasons_.number("blocked addresses inside, " + rule.local->place.text());
        log::notice("block", "block {}{}: {} addresses inside it are blocked, rule {}",
                    row.key.prefix().text(), at_port(row.key.port), row.count,
                    rule.local->place.text());
    }
}

void Ledger::leave_group(const TableRow& member) {
    if (member.grow_length == 0) {
        return;
    }
    const Key key =
        Key::of(member.key.name, Prefix::around(member.key.prefix().base, member.grow_length),
                member.key.protocol, member.key.port);
    const RowId id = table_.find(key);
    if (id == no_row || table_[id].count == 0) {
        return;
    }
    TableRow& group = table_[id];
    group.count -= 1;
    mark(id);
    if (group.count == 0 && group.state == State::counting && group.strikes == 0) {
        forget(id);
    }
}

void Ledger::lift(RowId id) {
    const TableRow& row = table_[id];
    log::info("lift", "lift the block of {}{}", row.key.prefix().text(), at_port(row.key.port));
    if (options_.monitor) {
        const RowChange outcome = released(count_of(row), clock_.now());
        apply(id, outcome);
        return;
    }
    feed(id);
}

bool Ledger::expire(std::size_t most) {
    const Moment now = clock_.now();
    for (RowId id = table_.due(now, most); id != no_row; id = table_.due(now, most)) {
        const RowChange outcome = egress::expire(count_of(table_[id]));
        if (outcome.effect == Effect::lift) {
            counters_.expired += 1;
            table_.drop_past(id);
        }
        apply(id, outcome, "expired");
    }
    return table_.no_deadline_before() <= now;
}

Result<RowId> Ledger::make_block(const ManualBlock& request) {
    const policy::NameId name =
        request.name.empty() ? policy::NameId{0} : names_.number(request.name);
    if (!request.name.empty() && names_.text(name) != request.name) {
        return fail("too many rule names are in use; use one that is there");
    }
    const Key key = Key::of(name, request.address, request.protocol, request.port);
    RowId id = table_.find(key);
    if (id == no_row && (id = row_for(key)) == no_row) {
        return fail("the table is full of blocks; raise \"rows\" in [settings]");
    }
    Count counted = count_of(table_[id]);
    const Moment now = clock_.now();
    counted.since = counted.state == State::blocked ? counted.since : now;
    counted.state = State::blocked;
    counted.by_hand = true;
    counted.last = now;
    counted.until = after(now, request.seconds);
    apply(id, RowChange{counted, Effect::block});
    table_[id].reason = reasons_.number(request.reason.empty() ? "by hand" : request.reason);
    return id;
}

Result<store::Row> Ledger::block(const ManualBlock& request) {
    const auto id = make_block(request);
    if (!id) {
        return std::unexpected(id.error());
    }
    log::notice("hand", "block {}{} by hand{}{}", request.address.text(), at_port(request.port),
                request.reason.empty() ? "" : ": ", escape(request.reason));
    store::Row row;
    snapshot(*id, row);
    return row;
}

std::size_t Ledger::unblock(const ManualUnblock& request) {
    // An address may be in many sets. Operators unblock rarely, so a walk over all rows is
    // affordable.
    std::size_t lifted = 0;
    for (RowId id = 0; id < table_.rows_end(); ++id) {
        lifted += selects(request, table_[id]) && lift_by_hand(id) ? 1 : 0;
    }
    return lifted;
}

bool Ledger::selects(const ManualUnblock& wanted, const TableRow& row) const {
    return row.used && (wanted.all || row.key.prefix() == wanted.address) &&
           (!wanted.port || *wanted.port == row.key.port) &&
           (!wanted.protocol || *wanted.protocol == row.key.protocol) &&
           (!wanted.name || *wanted.name == names_.text(row.key.name));
}

bool Ledger::lift_by_hand(RowId id) {
    if (!table_[id].used || table_[id].state != State::blocked) {
        return false;
    }
    lift_and_clear(id, "by hand");
    return true;
}

/// Ends the block and forgets what led to it, escalation included.
void Ledger::lift_and_clear(RowId id, const char* why) {
    Count counted = count_of(table_[id]);
    counted.state = State::releasing;
    counted.count = 0;
    counted.strikes = 0;
    counted.until = never;
    table_.drop_past(id);
    counters_.lifted += 1;
    apply(id, RowChange{counted, Effect::lift}, why);
}

std::vector<store::Row> Ledger::covering(const ManualUnblock& request, std::size_t most) const {
    const auto meet = [](auto wanted, auto has) { return !wanted || has == 0 || *wanted == has; };
    std::vector<store::Row> out;
    for (RowId id = 0; id < table_.rows_end() && out.size() < most; ++id) {
        const TableRow& row = table_[id];
        if (row.used && row.state == State::blocked && row.key.length <= request.address.length &&
            meet(request.port, row.key.port) && meet(request.protocol, row.key.protocol) &&
            row.key.prefix().contains(request.address.base)) {
            snapshot(id, out.emplace_back());
        }
    }
    return out;
}

const policy::Rule* Ledger::exemption_of(const TableRow& row) const {
    return exemptions_.covering({row.key.prefix(), row.key.protocol, row.key.port},
                                interfaces_.own());
}

void Ledger::follow_own() {
    if (exemptions_.has_self()) {
        pass_number_ += 1;
        look_for_exempt();
    }
}

void Ledger::look_for_exempt() {
    exempt_due_ = true;
    exempt_next_ = 0;
    exempt_lifted_ = 0;
}

bool Ledger::lift_exempt(RowId most) {
    constexpr std::size_t most_lines = 100; // of the log; the rest is one number
    if (!exempt_due_) {
        return false;
    }
    const RowId last = exemptions_.empty() ? 0 : table_.rows_end();
    const RowId end =
        exempt_next_ < last && last - exempt_next_ > most ? exempt_next_ + most : last;
    for (; exempt_next_ < end; ++exempt_next_) {
        const TableRow& row = table_[exempt_next_];
        const auto* const line =
            row.used && row.state == State::blocked ? exemption_of(row) : nullptr;
        if (line == nullptr) {
            continue;
        }
        if (++exempt_lifted_ <= most_lines) {
            log::notice("exempt", "lift the block of {}{}: {} exempts it", row.key.prefix().text(),
                        at_port(row.key.port), line->place.text());
        }
        lift_and_clear(exempt_next_, "exempt");
    }
    if (end < last) {
        return true;
    }
    if (exempt_lifted_ > most_lines) {
        log::notice("exempt", "lifted {} more blocks that the rules exempt",
                    exempt_lifted_ - most_lines);
    }
    exempt_due_ = false;
    return false;
}

void Ledger::forget(RowId id) {
    TableRow& row = table_[id];
    pushed_ += 1;
    if (row.stored) {
        snapshot(id, scratch_, stored_base_);
        erased_.erase(scratch_);
    }
    if (row.state == State::blocked) {
        leave_group(row);
    }
    set_state(row, State::counting);
    services_.leave(row.key, State::counting);
    table_.remove(id);
}

void Ledger::mark(RowId id) {
    pushed_ += 1;
    if (!table_[id].dirty) {
        table_[id].dirty = true;
        dirty_.emplace_back(id, pushed_);
    }
}

void Ledger::feed(RowId id) {
    if (!options_.monitor) {
        for (const auto& feed : feeds_) {
            feed->add(id);
        }
    }
}

std::uint16_t Ledger::reason_of(const policy::Rule& rule) {
    const auto found = rule_reasons_.find(&rule);
    if (found != rule_reasons_.end()) {
        return found->second;
    }
    const auto number = reasons_.number("failures, " + rule.place.text());
    rule_reasons_.emplace(&rule, number);
    return number;
}

} // namespace egress
