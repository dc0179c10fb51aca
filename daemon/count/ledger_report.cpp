// The ledger's side of reports: from a report to the rule that counts it, and on to the row and the
// block.
#include <algorithm>
#include <array>

#include "daemon/base/log.h"
#include "daemon/base/words.h"
#include "daemon/count/ledger.h"
#include "daemon/count/ledger_bits.h"
#include "daemon/policy/print/print.h"
#include "daemon/policy/text/number.h"

namespace egress {

using store::State;

namespace {

/// Reports whose rows are fetched together: enough to hide a cache miss behind the others, few
/// enough for their rows to be there still when their turn comes.
constexpr std::size_t reports_ahead = 16;
constexpr std::size_t most_kills = 4096; // queued; under a flood the block itself comes first

} // namespace

/// A report and the lines that decide for it.
struct Ledger::Matched {
    bool matched = false;
    policy::EffectiveRule rule;
    Key key;   ///< of the row that counts it
    Key block; ///< of the row that a block goes to, which may be one for every port
    Table::Ahead ahead;
};

void Ledger::report(std::span<const Report> reports) {
    std::array<Matched, reports_ahead> found;
    while (!reports.empty()) {
        const auto some = reports.first(std::min(reports.size(), reports_ahead));
        reports = reports.subspan(some.size());
        for (std::size_t i = 0; i < some.size(); ++i) {
            match(some[i], found[i]);
        }
        if (some.size() > 1) {
            look_ahead(std::span(found).first(some.size()));
        }
        for (std::size_t i = 0; i < some.size(); ++i) {
            judge(some[i], found[i]);
        }
    }
}

void Ledger::match(const Report& report, Matched& out) const {
    policy::Subject subject;
    subject.local = report.local;
    subject.interface = interfaces_.name_of(report.local.address);
    subject.remote = report.remote;
    subject.remote_own = interfaces_.is_own(report.remote.address);
    subject.type = report.type;
    subject.protocol = report.protocol;
    subject.uid = report.uid;
    out.matched = matcher_->match(subject, out.rule);
    if (out.matched) {
        out.key = key_of(out.rule, report.protocol, report.port());
        out.block = block_key_of(out.rule, report.protocol, report.port());
    }
}

void Ledger::look_ahead(std::span<Matched> reports) const {
    for (Matched& one : reports) {
        if (one.matched) {
            one.ahead = table_.look_ahead(one.key);
        }
    }
    for (Matched& one : reports) {
        if (one.matched) {
            table_.look_ahead_at_row(one.ahead);
        }
    }
    for (const Matched& one : reports) {
        if (one.matched) {
            table_.look_ahead_at_neighbours(one.ahead);
        }
    }
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

void Ledger::judge(const Report& report, const Matched& found) {
    if (!found.matched) {
        counters_.unmatched += 1;
        return;
    }
    const policy::EffectiveRule& rule = found.rule;
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
    const Key& key = found.key;
    const Key& block = found.block;
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

} // namespace egress
