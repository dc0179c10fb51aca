// Hands the ledger's changes to the store in batches, and answers callers that wait for durability.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/loop.h"
#include "daemon/count/ledger.h"
#include "daemon/store/event_counts.h"
#include "daemon/store/store.h"

namespace egress {

class Keeper {
  public:
    struct Counters {
        std::uint64_t commits = 0;
        std::uint64_t failures = 0;
        std::string last_error; ///< empty while the last commit went well
    };

    static Result<std::unique_ptr<Keeper>> make(sd_event* event, Ledger& ledger,
                                                std::unique_ptr<store::Store> store);

    /// The counts of events, which it collects at most once a second.
    void attach(EventCounts& counts) { counts_ = &counts; }
    /// Sets a key of the database's "meta" (an empty value deletes it). Calls `done` as
    /// when_durable() does.
    void set_meta(std::string key, std::string value, std::function<void(bool)> done);
    /// Submits what changed, if the writer is idle: at once where a caller waits for it, else 10 ms
    /// after the submit before. Called at the end of every turn of the loop.
    void pump();
    /// Once a second: frees the memory of a burst.
    void tick();
    /// Calls `done(true)` when all changes until now are durable, `done(false)` if the next commit
    /// fails (the change stays, and is tried again).
    void when_durable(std::function<void(bool)> done);
    using Events = std::shared_ptr<const store::Store::Events>;
    /// Calls `done` with the counts of events in the database, soon. False: too many wait for them.
    bool read_events(std::function<void(const Events&)> done);
    /// Writes everything that has changed, and waits for it: before the loop runs.
    Result<> flush();
    /// The same at the end, after the loop; answers all waiting callers.
    Result<> finish();

    const Counters& counters() const { return counters_; }
    std::size_t waiting() const {
        return static_cast<std::size_t>(ledger_.change_number() - durable_);
    }
    const store::Store& store() const { return *store_; }

  private:
    Keeper(sd_event* event, Ledger& ledger, std::unique_ptr<store::Store> store)
        : event_(event), ledger_(ledger), store_(std::move(store)) {}
    void take_outcome();
    void submit();
    bool nothing_to_do() const;
    void settle(const store::Store::Outcome& outcome);
    void retry_later();
    void answer_metas(bool durable);
    void answer_waiters(std::uint64_t number, bool durable);

    sd_event* event_;
    Ledger& ledger_;
    std::unique_ptr<store::Store> store_;
    store::Batch batch_;
    EventCounts* counts_ = nullptr;
    bool counts_due_ = false;
    struct Meta {
        std::string key;
        std::string value;
        std::function<void(bool)> done;
    };
    std::vector<Meta> metas_;                           ///< not submitted yet
    std::vector<std::function<void(bool)>> meta_waits_; ///< for the batch under way
    std::vector<std::function<void(const Events&)>> event_waits_;
    Counters counters_;
    std::uint64_t in_batch_ = 0; ///< change number that the batch under way reaches
    std::uint64_t durable_ = 0;
    std::uint64_t commits_at_tick_ = 0;
    bool shrunk_ = true;
    std::deque<std::pair<std::uint64_t, std::function<void(bool)>>> waiters_;
    Source outcome_source_;
    Source retry_source_;
    Source spacer_; ///< ends the time between two submits
    std::uint64_t submitted_usec_ = 0;
};

} // namespace egress
