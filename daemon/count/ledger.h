// The ledger: applies reports, deadlines and the operator's requests to the rows.
//
// It owns the table and the rules, and knows neither the disk nor the firewall: what changed waits
// in a list that the keeper (store) takes from, and in the feeds of those who follow blocks. All on
// the loop's thread.
#pragma once

#include <deque>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/base/interfaces.h"
#include "daemon/base/intern.h"
#include "daemon/base/result.h"
#include "daemon/count/block_feed.h"
#include "daemon/count/decide.h"
#include "daemon/count/element.h"
#include "daemon/count/report.h"
#include "daemon/count/services.h"
#include "daemon/count/table.h"
#include "daemon/policy/login/exempt.h"
#include "daemon/policy/login/match.h"
#include "daemon/policy/login/pass_list.h"
#include "daemon/store/store.h"

namespace egress {

/// The operator's request for a block.
struct ManualBlock {
    std::string name; ///< empty: the standard name
    Prefix address;
    std::uint8_t protocol = 0;
    std::uint16_t port = 0;
    Seconds seconds = forever;
    std::string reason; ///< must be printable
};

/// Selects rows to unblock; nullopt: any.
struct ManualUnblock {
    Prefix address;
    std::optional<std::string> name;
    std::optional<std::uint8_t> protocol;
    std::optional<std::uint16_t> port;
    bool all = false; ///< every address; `address` means nothing then
};

/// A block that began, was extended or was lifted, for those who watch.
struct BlockChange {
    Key key;
    Effect effect = Effect::none; ///< block, extend or lift
    const char* why = "";         ///< of a lift
};

class Ledger final : public TrustedReporters {
  public:
    struct Options {
        bool monitor = false; ///< judge and record, block nothing
        std::string standard_name = "egress";
        std::size_t rows = 1'000'000;
    };
    struct Counters {
        std::uint64_t matched = 0;
        std::uint64_t unmatched = 0;
        std::uint64_t forgeable = 0; ///< matched, but the address may be forged: not counted
        std::uint64_t unproved = 0;  ///< matched, but the reporter chose the port: not counted
        std::uint64_t failures = 0;
        std::uint64_t successes = 0;
        std::uint64_t blocks = 0;
        std::uint64_t extended = 0;
        std::uint64_t lifted = 0;
        std::uint64_t expired = 0;
        std::uint64_t evicted = 0;    ///< counting rows removed from a full table
        std::uint64_t table_full = 0; ///< reports without room (every row blocks)
        std::uint64_t killed = 0;     ///< requests to close connections
    };

    Ledger(const Clock& clock, const Interfaces& interfaces, Options options,
           policy::Policy policy);

    // Reports and time.
    /// Reports that came together, in their order.
    void report(std::span<const Report> reports);
    /// Only root may open ports below it (net.ipv4.ip_unprivileged_port_start).
    void set_unprivileged_port(std::uint16_t port) { unprivileged_port_ = port; }
    /// Applies at most `most` expired deadlines; true: more may be due.
    bool expire(std::size_t most);

    // The operator.
    Result<store::Row> block(const ManualBlock& request);
    /// The same without a line in the log, for lists.
    Result<RowId> make_block(const ManualBlock& request);
    std::size_t unblock(const ManualUnblock& request);
    bool selects(const ManualUnblock& wanted, const TableRow& row) const;
    /// Lifts the block of a row; false: it has none.
    bool lift_by_hand(RowId id);
    /// Forgets the row's count, history and escalation, and lifts its block. False: no such row.
    bool forget_by_hand(RowId id);
    bool covers_row(const Prefix& outer, const TableRow& row) const;
    bool row_covers(const TableRow& row, const Prefix& inner) const;
    /// What a report to this port counts under by the rule.
    static Key key_of(const policy::EffectiveRule& rule, int protocol, std::uint16_t port) {
        return rule.by_name
                   ? Key::of(rule.name, rule.counted, 0, 0)
                   : Key::of(rule.name, rule.counted, static_cast<std::uint8_t>(protocol), port);
    }
    /// What such a report blocks by the rule.
    static Key block_key_of(const policy::EffectiveRule& rule, int protocol, std::uint16_t port) {
        return rule.all_ports ? Key::of(rule.name, rule.counted, 0, 0)
                              : key_of(rule, protocol, port);
    }
    /// The lines that would decide for a report; nullopt: no line of [local] matches.
    std::optional<policy::EffectiveRule> rule_for(const Endpoint& local, const Address& remote,
                                                  int type, int protocol, std::uint32_t uid) const;

    // Those who watch blocks.
    static constexpr std::size_t most_changes = 16'384; ///< between two calls of next_change()
    /// Whether changes are kept for next_change().
    void watch_blocks(bool wanted);
    bool watches_blocks() const { return watched_; }
    std::optional<BlockChange> next_change();
    /// Changes that found no room since the last call.
    std::uint64_t take_missed_changes() { return std::exchange(missed_changes_, 0); }
    /// Blocks that still shut out all of the address: of it or of a wider prefix; at most `most`.
    std::vector<store::Row> covering(const ManualUnblock& request, std::size_t most) const;
    /// After a change of the rules or of this host's addresses: lifts the blocks of addresses that
    /// are exempt by now. Looks at no more than `most` rows; true: more are to be looked at.
    bool lift_exempt(RowId most);

    // Rules.
    void replace(policy::Policy policy);
    const policy::Policy& policy() const { return matcher_->policy(); }
    /// Who passes blocks, for the firewall.
    std::vector<policy::PassEntry> pass_list() const {
        return policy::pass_list(policy().remote, interfaces_.own());
    }
    /// Grows with every change of pass_list().
    std::uint64_t pass_number() const { return pass_number_; }
    /// The addresses of this host have changed.
    void follow_own();
    const policy::Exemptions& exemptions() const { return exemptions_; }
    const Interfaces& interfaces() const { return interfaces_; }
    bool service_of(const Reporter& reporter, Endpoint& local, int& type,
                    int& protocol) const override;
    bool vouches(const Reporter& reporter, const Endpoint& local, int type,
                 int protocol) const override;
    bool is_known(std::uint32_t uid) const override;

    // The store's side.
    /// The seconds that stored times are more than moments since boot; by default those of the wall
    /// clock when the ledger was made. To be set before rows are loaded.
    void set_stored_base(std::int64_t seconds) { stored_base_ = seconds; }
    /// Before rows are loaded: makes room for so many.
    void expect(std::size_t rows) { table_.reserve(rows); }
    /// `now`: read once for all rows, as a reading costs a fifth of what a row does.
    void load(const store::Row& row, Moment now);
    /// Moves at most `most` changes into the batch, oldest first.
    void collect(store::Batch& batch, std::size_t most);
    /// Frees memory that a burst left in the queues.
    void shrink();
    bool changed() const { return !dirty_.empty() || !erased_.empty(); }
    /// Grows by one with every change; collected() is the number of the last one collected.
    std::uint64_t change_number() const { return pushed_; }
    std::uint64_t collected() const { return collected_; }

    // The firewall's side.
    /// A feed of the blocks that change from now on; BlockFeed::most of them, for as long as this.
    BlockFeed& follow_blocks();
    /// Addresses whose live connections are to be cut.
    std::optional<Key> next_kill();
    /// The element that the firewall should have for the key; nullopt: none.
    std::optional<Element> wanted(const Key& key) const;
    /// Fills `out` for one row, without allocation if its strings have room. False: not wanted.
    bool wanted(RowId row, Element& out) const;
    Element element(const Key& key) const;
    /// The firewall confirmed that it has (or no longer has) the element.
    void confirm(const Key& key, bool present, std::string_view id);
    /// The firewall refused the element.
    void deny(const Key& key);
    /// Marks all blocks as not confirmed, because the firewall starts again.
    void distrust();
    /// Puts every row into the feed that the firewall has not confirmed.
    void add_pending(BlockFeed& feed) const;
    /// Takes over a block of the firewall without a row: a crash came before its commit.
    void adopt(const Element& element);
    /// All set names that rules or rows use.
    std::vector<std::string> names() const;

    const Table& table() const { return table_; }
    /// The row with times by the wall clock as it is now.
    void snapshot(RowId row, store::Row& out) const { snapshot(row, out, clock_.at_boot()); }
    const Counters& counters() const { return counters_; }
    const Services& services() const { return services_; }
    std::int64_t wall() const { return clock_.wall(); } ///< seconds
    std::size_t blocked() const { return blocked_; }
    std::size_t releasing() const { return releasing_; }
    std::size_t not_in_force() const { return options_.monitor ? 0 : blocked_ - in_force_; }
    bool monitor() const { return options_.monitor; }
    const std::string& name_text(policy::NameId name) const { return names_.text(name); }

  private:
    struct Matched;
    void match(const Report& report, Matched& out) const;
    void look_ahead(std::span<Matched> reports) const;
    void judge(const Report& report, const Matched& found);
    void snapshot(RowId row, store::Row& out, std::int64_t base) const;
    Moment deadline_of(const store::Row& stored, Moment now) const;
    bool proves_knock(const Report& report, const policy::Rule& rule) const;
    void count(const Key& key, const Key& block, const policy::EffectiveRule& rule,
               const Report& report);
    RowId move_to_block(RowId from, const Key& block, Past past);
    RowId row_for(const Key& key);
    /// `why`: of a lift, for those who watch.
    void apply(RowId id, const RowChange& outcome, const char* why = "");
    void note(const Key& key, Effect effect, const char* why);
    void set_state(TableRow& row, store::State state);
    void set_in_force(TableRow& row, bool in_force);
    void join_group(RowId id, const policy::EffectiveRule& rule);
    void leave_group(const TableRow& member);
    void begin_block(RowId id, const policy::EffectiveRule& rule, const Report& report);
    void log_block(RowId id, const policy::EffectiveRule& rule, const Report& report);
    void lift(RowId id);
    void lift_and_clear(RowId id, const char* why);
    const policy::Rule* exemption_of(const TableRow& row) const;
    void look_for_exempt();
    void forget(RowId id);
    void mark(RowId id);
    void feed(RowId id);
    std::uint16_t reason_of(const policy::Rule& rule);

    const Clock& clock_;
    const Interfaces& interfaces_;
    Options options_;
    std::int64_t stored_base_;
    std::uint16_t unprivileged_port_ = 1024;
    std::unordered_set<std::uint32_t> owners_; ///< uids that the rules name
    Intern names_;
    Intern reasons_;
    std::unordered_map<const policy::Rule*, std::uint16_t> rule_reasons_;
    std::unique_ptr<policy::Matcher> matcher_;
    std::uint64_t pass_number_ = 0;
    policy::Exemptions exemptions_; ///< of the matcher's rules
    bool exempt_due_ = false;       ///< the rows from exempt_next_ on are to be looked at
    RowId exempt_next_ = 0;
    std::size_t exempt_lifted_ = 0; ///< since the last change
    Table table_;
    Counters counters_;
    std::size_t blocked_ = 0;
    std::size_t releasing_ = 0;
    std::size_t in_force_ = 0;

    /// Rows to make durable, each with the number of its change, oldest first.
    std::deque<std::pair<RowId, std::uint64_t>> dirty_;
    store::Batch erased_;
    std::uint64_t pushed_ = 0;
    std::uint64_t collected_ = 0;
    store::Row scratch_;
    std::vector<std::unique_ptr<BlockFeed>> feeds_;
    std::deque<Key> kills_;
    Services services_;
    std::deque<BlockChange> changes_;
    std::uint64_t missed_changes_ = 0;
    bool watched_ = false;
};

} // namespace egress
