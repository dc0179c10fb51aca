// `table inet egress` as one object: change, list, sync.
//
// Every change is one transaction: packets see all of it or nothing. Only the kernel's state
// counts: before each use the cached layout is compared with the ruleset's generation, so that a
// table that was flushed, or changed by another helper, is noticed and made again. All retries are
// bounded, and only our table changes.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "helper/diff.h"
#include "helper/elements.h"
#include "helper/exempt.h"
#include "helper/memory.h"

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

    /// Puts exactly `wanted` in force under this name; no packet sees a state in between.
    Result<Synced> sync(const std::string& name, const std::vector<Block>& wanted);

    /// Lets these pass whatever is blocked, and only these; also wherever the table is made anew.
    /// Returns their number.
    Result<std::size_t> exempt(Exemptions wanted);
    const Exemptions& exemptions() const { return exemptions_; }

    /// The number by which the kernel tells that a change is ours.
    std::uint32_t port() const { return netlink_.port(); }

  private:
    struct Round; ///< remaining work of apply()

    Table(Netlink netlink, bool renews) : netlink_(std::move(netlink)), renews_(renews) {}

    Result<> refresh();
    Batch begin(int attempt);
    Result<Outcome> finish(Batch& batch);
    void run(Round& round);
    void halve(Round& round);
    Result<> read_counters(Round& round);
    void write(Batch& batch, Round& round);
    void write_add(Batch& batch, const Change& change, Lifetime lifetime, int owner);
    void write_rem(Batch& batch, const Change& change, int owner);
    bool fits(const std::string& set) const;
    Result<> show_sets(const std::string& name, const Show& show);

    Result<bool> exempts_exactly(const Exemptions& wanted);
    void write_exemptions(Batch& batch);

    Result<std::vector<Element>> elements(const std::string& name);
    Result<> read_counters(const std::string& name, std::vector<Element>& renewals);
    Result<> write_plan(Batch& batch, const std::string& name, const std::vector<Block>& wanted,
                        const Plan& plan);
    void remember(const std::string& name, const Plan& plan);
    Result<Outcome> sync_once(int attempt, const std::string& name,
                              const std::vector<Block>& wanted, Synced& synced);

    Netlink netlink_;
    bool renews_; ///< the kernel changes the time of an existing element in place
    Layout layout_;
    Exemptions exemptions_; ///< wanted
    Memory memory_;         ///< valid for the layout's generation
    bool guarded_ = true;   ///< the current batch commits only on that generation
};

/// Commits of others that may make ours stale before we give up.
inline constexpr int attempts = 16;
Error disturbed();
Error foreign(const std::string& set);

/// Removes an element that may be missing: makes it first, so that it surely exists.
void write_gone(Batch& batch, const std::string& set, const Target& target, int owner);

} // namespace egress::helper
