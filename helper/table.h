// `table inet egress` as one object: change, list, sync.
//
// Every change but a rebuild is one transaction: packets see all of it or nothing. Only the
// kernel's state counts: before each use the cached layout is compared with the ruleset's
// generation, so that a table that was flushed, or changed by another helper, is noticed and made
// again. All retries are bounded, and only our table changes. What is remembered of the elements is
// valid until another program changes our table: the caller hears of that, or any change of the
// generation counts.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "helper/diff.h"
#include "helper/elements.h"
#include "helper/exempt.h"
#include "helper/listener.h"
#include "helper/memory.h"
#include "helper/rebuild.h"

namespace egress::helper {

/// One add or rem.
struct Change {
    bool add = true;
    std::string name;
    Block block;
};

struct Synced {
    std::size_t added = 0;
    std::size_t removed = 0;
    bool unfinished = false; ///< what got another action is to be removed yet
};

class Table {
  public:
    static Result<Table> open();

    /// Makes all changes in one transaction if the kernel accepts it; leaves out those that the
    /// kernel refuses. Returns one result per change.
    std::vector<Result<>> apply(std::span<const Change> changes);

    /// Removes all elements, sets and rules of this name.
    Result<> flush(const std::string& name);

    /// Removes the table with everything in it; none is no error.
    Result<> clear();

    /// Shows the elements of this name that are in force (not those of sets without a rule) while
    /// it reads them; an element may come twice. Returns the number of calls of `show`.
    Result<std::size_t> list(const std::string& name, const Show& show);

    Result<std::vector<std::string>> names();

    /// Up to so many blocks are read, compared and changed in one transaction. The kernel reads in
    /// a time that grows with the square of the size; this many take it 20 ms.
    static constexpr std::size_t most_at_once = 20'000;

    /// Puts exactly `wanted` in force under this name; no packet sees a state in between.
    Result<Synced> sync(const std::string& name, const std::vector<Block>& wanted);

    /// True if so many blocks should rather come by a rebuild.
    bool large(const std::string& name, std::size_t blocks) const;

    /// Puts exactly `wanted` in force under this name, in pieces: rebuild_step() does one, and
    /// returns nullopt until all is done. Until then only apply() may be called. Nothing that is
    /// and stays blocked is open for a moment. After an error everything is as it was, but some of
    /// the blocks may be in force. One rebuild at a time.
    void begin_rebuild(const std::string& name, const std::vector<Block>& wanted);
    bool rebuilding() const { return rebuild_.has_value(); }
    Result<std::optional<Synced>> rebuild_step();

    /// Lets these pass whatever is blocked, and only these; also wherever the table is made anew.
    /// Returns their number.
    Result<std::size_t> exempt(Exemptions wanted);
    const Exemptions& exemptions() const { return exemptions_; }

    /// Listens to changes by other programs from now on: a change of the ruleset's generation alone
    /// no longer makes us read everything again.
    Result<> listen();
    /// Readable when there is something to hear; -1: not listening.
    int notices() const { return listener_ ? listener_->fd() : -1; }
    /// Takes in what there is to hear, without waiting; to be called before the table is used.
    /// True: another program has changed our table, and what we knew of it is forgotten.
    bool hear();
    bool missed() { return missed_ && hear(); }

  private:
    struct Round; ///< remaining work of apply()

    Table(Netlink netlink, bool renews) : netlink_(std::move(netlink)), renews_(renews) {}

    Result<> refresh();
    Batch begin(int attempt);
    Result<Outcome> finish(Batch& batch);
    Result<Outcome> commit_unheard(Batch& batch);
    void run(Round& round);
    void halve(Round& round);
    Result<> read_counters(Round& round);
    void write(Batch& batch, Round& round);
    std::size_t write_run(Batch& batch, const Round& round, std::size_t first);
    void write_add(Batch& batch, const Change& change, Lifetime lifetime, int owner);
    void write_rem(Batch& batch, const Change& change, int owner);
    void write_gone_if_there(Batch& batch, const std::string& set, const Target& target, int owner);
    std::vector<SetId> turns(const SetId& set) const;
    bool fits(const std::string& set) const;
    Result<> show_sets(const std::string& name, const Show& show);

    void restart_rebuild();
    Result<> write_piece(Batch& batch);
    void write_turn(Batch& batch);
    Result<bool> rebuild_piece();

    Result<bool> exempts_exactly(const Exemptions& wanted);
    void write_exemptions(Batch& batch);

    Result<std::vector<Element>> elements(const std::string& name);
    Result<> read_counters(const std::string& name, std::vector<Element>& renewals);
    Result<> write_plan(Batch& batch, const std::string& name, const std::vector<Block>& wanted,
                        const Plan& plan);
    void remember(const std::string& name, const Plan& plan);
    Result<Outcome> sync_once(int attempt, const std::string& name,
                              const std::vector<Block>& wanted, Synced& synced);
    Result<Synced> sync_in_steps(const std::string& name, const std::vector<Block>& wanted,
                                 Synced& before);

    Netlink netlink_;
    bool renews_; ///< the kernel changes the time of an existing element in place
    Layout layout_;
    Exemptions exemptions_; ///< wanted
    Memory memory_;
    std::optional<Rebuild> rebuild_;
    std::optional<Listener> listener_;
    bool missed_ = false; ///< another program's change, while we did not listen
    bool guarded_ = true; ///< the current batch commits only on that generation
};

/// Commits of others that may make ours stale before we give up.
inline constexpr int attempts = 16;
Error disturbed();
Error foreign(const std::string& set);

/// Removes an element that may be missing: makes it first, so that it surely exists.
void write_gone(Batch& batch, const std::string& set, const Target& target, int owner);

} // namespace egress::helper
