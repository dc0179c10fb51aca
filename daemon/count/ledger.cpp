#include "daemon/count/ledger.h"

#include <algorithm>
#include <set>

#include "daemon/base/log.h"
#include "daemon/base/words.h"
#include "daemon/count/ledger_bits.h"
#include "daemon/policy/print/print.h"
#include "daemon/policy/text/number.h"

namespace egress {

namespace {

using store::State;

constexpr std::size_t default_rows = 1'000'000;
constexpr std::size_t most_kills = 4096; // queued; under a flood the block itself comes first

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

/// True if the remote opened the connection to this port. A socket proves its peer, but that the
/// peer opened the connection is certain only if the reporter could not choose the port: any user
/// can bind a port and connect from it to any address. Another listener on the port proves nothing:
/// it may be a second uid of the same person, or a server that started after the reporter bound its
/// socket. The maker of a socket cannot be faked.
bool Ledger::proves_knock(const Report& report, const policy::Rule& rule) const {
    if (!report.by_socket || report.uid == 0 || rule.owner == report.uid || report.vouched ||
        report.local.port < unprivileged_port_ || report.maker == 0) {
        return true;
    }
    const auto fits = [](const policy::Trusted& line) { return line.cgroup.empty(); };
    const policy::Trusted* const line = matcher_->trusted(report.uid, fits);
    return line != nullptr &&
           line->location.port.value_or(report.local.port) == report.local.port &&
           line->protocol.number.value_or(report.protocol) == report.protocol;
}

void Ledger::report(const Report& report) {
    policy::Subject subject;
    subject.local = report.local;
    subject.interface = interfaces_.name_of(report.local.address);
    subject.remote = report.remote;
    subject.remote_own = interfaces_.is_own(report.remote.address);
    subject.type = report.type;
    subject.protocol = report.protocol;
    subject.uid = report.uid;
    policy::EffectiveRule rule;
    if (!matcher_->match(subject, rule)) {
        counters_.unmatched += 1;
        return;
    }
    counters_.matched += 1;
    (report.action == Action::ok ? counters_.successes : counters_.failures) += 1;
    if (report.forgeable && !rule.spoofable) {
        counters_.forgeable += 1;
        log::info("forgeable",
                  "{} port {}: {} reported, but the address may be forged; not counted",
                  report.remote.address.text(), report.local.port,
                  report.action == Action::ok ? "a success" : "a failure");
        return;
    }
    if (!proves_knock(report, *rule.local)) {
        counters_.unproved += 1;
        log::info("unproved",
                  "{} port {}: uid {} reported {}, but any user may choose that port; not counted "
                  "(name the server's user in the owner column)",
                  report.remote.address.text(), report.local.port, report.uid,
                  report.action == Action::ok ? "a success" : "a failure");
        return;
    }
    const Key key = key_of(rule, report.protocol, report.port());
    const Key block = block_key_of(rule, report.protocol, report.port());
    Services::Service& service = services_.of(key);
    (report.action == Action::ok ? service.successes : service.failures) += 1;
    const RowId wide = block == key ? no_row : table_.find(block);
    if (wide != no_row && table_[wide].state == State::blocked) {
        count(block, block, rule, report);
        if (report.action != Action::ok) {
            return;
        }
    }
    count(key, block, rule, report);
}

/// Counts a report in the row `key`. A block that begins goes to the row `block`, which may be one
/// for every port.
void Ledger::count(const Key& key, const Key& block, const policy::EffectiveRule& rule,
                   const Report& report) {
    RowId id = table_.find(key);
    if (id == no_row) {
        if (report.action == Action::ok || (id = row_for(key)) == no_row) {
            return;
        }
    } else if (rule.window == forever) {
        table_.drop_past(id); // counted under an earlier rule with a window
    }
    static thread_local Past no_past;
    no_past.clear();
    const bool windowed = rule.window != forever;
    Past& past = windowed ? table_.past(id) : no_past;
    Count counted = count_of(table_[id]);
    const auto strikes = counted.strikes;
    const RowId wide = block == key || report.action == Action::ok ? no_row : table_.find(block);
    if (wide != no_row) {
        counted.strikes = table_[wide].strikes; // earlier blocks of every port
    }
    RowChange outcome = decide(rule, counted, past, report.action, clock_.now());
    if (block != key && outcome.effect == Effect::block) {
        id = move_to_block(id, block, windowed ? std::move(past) : Past());
    } else if (block != key) {
        outcome.next.strikes = strikes;
    }
    table_[id].nfail = rule.limited ? rule.nfail : 0;
    counters_.lifted += outcome.effect == Effect::lift;
    apply(id, outcome, "success");
    if (outcome.effect == Effect::block) {
        begin_block(id, rule, report);
        log_block(id, rule, report);
    } else if (log::threshold() >= log::Level::debug) {
        log::debug("counted", "{}: {}/{} ({}) {}", rule.counted.text(), outcome.next.count,
                   rule.nfail, policy::print(*rule.local), quoted(report.message));
    }
}

/// Ends the count of one port, which becomes the block of every port. The row for that.
RowId Ledger::move_to_block(RowId from, const Key& block, Past past) {
    forget(from);
    RowId id = table_.find(block);
    if (id == no_row) { // takes the room of the other, so that a full table is no obstacle
        services_.enter(block, State::counting);
        id = table_.add(block);
    }
    if (past.empty()) {
        table_.drop_past(id);
    } else {
        table_.past(id) = std::move(past);
    }
    return id;
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

void Ledger::begin_block(RowId id, const policy::EffectiveRule& rule, const Report& report) {
    TableRow& row = table_[id];
    row.flags = with(row.flags, store::reject, rule.reject);
    row.reason = reason_of(*rule.local);
    if (rule.kill && !options_.monitor && kills_.size() < most_kills) {
        kills_.push_back(row.key);
        // Behind a translation the server's sockets have another port than the block.
        kills_.back().port = row.key.port == 0 ? std::uint16_t{0} : report.local.port;
    }
    join_group(id, rule);
}

void Ledger::log_block(RowId id, const policy::EffectiveRule& rule, const Report& report) {
    const TableRow& row = table_[id];
    const Seconds time = row.until == never32 ? forever : unpack(row.until) - unpack(row.since);
    const bool translated = row.key.port != 0 && row.key.port != report.local.port;
    const std::string text = fmt::format(
        "{}{}{}{} for {}: {}, rule {}; reported: {}", options_.monitor ? "would block " : "block ",
        rule.counted.text(), at_port(row.key.port),
        translated ? fmt::format(" (port {} of the server)", report.local.port) : "",
        time == forever ? "ever" : policy::print_duration(time), counted(row.count, "failures"),
        rule.local->place.text(), escape(report.message));
    log::write(log::Level::notice, "block", text,
               {{"EGRESS_ADDRESS", rule.counted.text()},
                {"EGRESS_REMOTE", report.remote.address.text()},
                {"EGRESS_PORT", std::to_string(row.key.port)},
                {"EGRESS_NAME", names_.text(row.key.name)},
                {"EGRESS_COUNT", std::to_string(row.count)},
                {"EGRESS_SECONDS", time == forever ? "*" : std::to_string(time)},
                {"EGRESS_RULE", rule.local->place.text()},
                {"EGRESS_REPORTER_UID", std::to_string(report.uid)},
                {"EGRESS_REPORTER_PID", std::to_string(report.pid)}});
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
    for (std::size_t i = 0; i < most; ++i) {
        const auto id = table_.first_deadline();
        if (!id || unpack(table_[*id].until) > now) {
            return false;
        }
        const RowChange outcome = egress::expire(count_of(table_[*id]));
        if (outcome.effect == Effect::lift) {
            counters_.expired += 1;
            table_.drop_past(*id);
        }
        apply(*id, outcome, "expired");
    }
    const auto id = table_.first_deadline();
    return id && unpack(table_[*id].until) <= now;
}

Moment Ledger::next_deadline() const {
    const auto id = table_.first_deadline();
    return id ? unpack(table_[*id].until) : never;
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
