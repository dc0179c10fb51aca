// `table inet egress` as one object: changes, look, sync.
//
// Every change is one transaction: packets see all of it or nothing. What the kernel holds is the
// only truth; the layout kept here is checked against the ruleset's generation before each use, so
// a table that someone flushed, or another helper changed, is seen and made anew. Nothing here
// retries for ever, and nothing outside our table is touched.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "helper/diff.h"
#include "helper/elements.h"
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

    /// Makes all changes in one transaction if the kernel lets it; those that it refuses are left
    /// out, and say so. One result for each change.
    std::vector<Result<>> apply(std::span<const Change> changes);

    /// Removes everything of this name, its sets and rules too.
    Result<> flush(const std::string& name);

    /// Shows what of this name is in force (elements whose rule someone deleted are not), as it is
    /// read; an element may come twice. Returns how many times `show` was called.
    Result<std::size_t> list(const std::string& name, const Show& show);

    Result<std::vector<std::string>> names();

    /// Afterwards exactly `wanted` is in force under this name, and no packet saw anything between.
    Result<Synced> sync(const std::string& name, const std::vector<Block>& wanted);

  private:
    struct Round; ///< of apply(): what is still to do

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

    Result<std::vector<Element>> elements(const std::string& name);
    Result<> read_counters(const std::string& name, std::vector<Element>& renewals);
    Result<> write_plan(Batch& batch, const std::string& name, const std::vector<Block>& wanted,
                        const Plan& plan);
    void remember(const std::string& name, const Plan& plan);
    Result<Outcome> sync_once(int attempt, const std::string& name,
                              const std::vector<Block>& wanted, Synced& synced);

    Netlink netlink_;
    bool renews_; ///< the kernel gives an element that is there a new time in place
    Layout layout_;
    Memory memory_;       ///< of the ruleset of the layout's generation
    bool guarded_ = true; ///< the batch being written commits on that generation only
};

/// Of others' commits that make ours stale, before we give up.
inline constexpr int attempts = 16;
Error disturbed();
Error foreign(const std::string& set);

/// Removes an element that may or may not be there: made first, it surely is.
void write_gone(Batch& batch, const std::string& set, const Target& target, int owner);

} // namespace egress::helper
