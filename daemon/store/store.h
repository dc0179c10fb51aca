// Makes rows durable without blocking the loop: one writer thread, one commit per batch.
//
// The loop's thread fills a Batch while the writer is idle and submits it; the writer commits it in
// one transaction (fsync included) and wakes the loop through fd(). Changes in the meantime go into
// the next batch, so the commits grow with the load. A batch that cannot be written (disk full) is
// kept and retried; later batches wait for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/base/worker.h"
#include "daemon/store/env.h"
#include "daemon/store/event_table.h"
#include "daemon/store/journal.h"

namespace egress::store {

/// Puts and deletions in one buffer. The last entry for a key wins.
class Batch {
  public:
    /// Encodes the row as it is now.
    void put(const Row& row);
    /// Uses only the key fields of the row.
    void erase(const Row& row);
    /// Adds the row's count to the one in the database.
    void count(EventRow row) { events_.push_back(std::move(row)); }
    /// Sets a key of "meta"; an empty value deletes it.
    void set_meta(std::string key, std::string value);
    /// Appends the rows of the other batch, but neither its events nor its meta.
    void append(const Batch& other);
    void clear();
    /// Bytes of allocated memory.
    std::size_t capacity() const { return bytes_.capacity() + entries_.capacity() * sizeof(Entry); }
    std::size_t size() const { return entries_.size(); }
    bool empty() const { return entries_.empty() && events_.empty() && metas_.empty(); }

  private:
    friend class Store;
    struct Entry {
        std::uint32_t key;   // offsets into bytes_
        std::uint32_t value; // == end: a deletion
        std::uint32_t end;
    };
    std::span<const std::uint8_t> key_of(const Entry& entry) const;
    void sort();
    /// The last entry of each key, in key order. Valid as long as the batch does not change.
    std::vector<Change> changes();

    std::vector<std::uint8_t> bytes_;
    std::vector<Entry> entries_;
    std::vector<EventRow> events_;
    std::vector<std::pair<std::string, std::string>> metas_;
};

class Store {
  public:
    /// The result of the last batch.
    struct Outcome {
        bool durable = false;
        std::string error; ///< the reason if not durable; the batch is kept
    };

    static Result<std::unique_ptr<Store>> start(Env env);
    /// Waits for the current commit.
    ~Store();

    /// Readable when an outcome can be taken.
    int fd() const { return wake_.fd(); }
    /// True: no batch is in progress or awaits a retry.
    bool idle() const { return !busy_; }
    /// Only while idle: exchanges `batch` for an empty one that has its memory allocated.
    void submit(Batch& batch);
    /// nullopt: the commit is in progress. After a failure call retry() later.
    std::optional<Outcome> take_outcome();
    void retry();
    /// Only while idle: frees the memory that a burst left in the batch.
    void shrink();
    /// Waits for the current batch (at shutdown).
    Outcome wait();

    /// The rows of the table of events.
    struct Events {
        std::vector<EventRow> rows;
        std::uint64_t damaged = 0; ///< rows that cannot be read
        std::string error;         ///< the reason if the table cannot be read
    };
    /// Has the writer read the table between two batches.
    void ask_events();
    /// The answer; null: not there yet. The descriptor is readable when it is.
    std::shared_ptr<const Events> take_events();

    const Env& env() const { return env_; }
    const EventTable::Counters& events() const { return events_.counters(); }
    /// Number of damaged rows set aside, at the start and since.
    std::uint64_t damaged() const { return env_.set_aside() + damaged_; }

  private:
    explicit Store(Env env) : env_(std::move(env)) {}
    void run();
    Result<> write(Batch& batch);
    int write_others(Transaction& txn, const Batch& batch);
    void hand_over();
    Events read_events() const;

    Env env_;
    EventTable events_; // the writer's
    Journal journal_;   // the writer's
    std::atomic<std::uint64_t> damaged_{0};
    Bell wake_;
    bool busy_ = false; // the loop's view
    std::mutex mutex_;
    std::condition_variable changed_;
    Batch batch_; // the writer's while work_ is set
    bool work_ = false;
    bool stop_ = false;
    bool events_wanted_ = false;
    std::shared_ptr<const Events> events_read_;
    std::optional<Outcome> outcome_;
    Worker worker_;
};

} // namespace egress::store
