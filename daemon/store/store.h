// Making rows durable without making anybody wait: one writer thread, one commit per batch.
//
// The loop's thread fills a Batch while the writer is idle and submits it; the writer commits it in
// one transaction (fsync included) and wakes the loop through fd(). Whatever changes meanwhile goes
// into the next batch, so the commits grow with the load. A batch that cannot be written (disk
// full) is kept and tried again; nothing behind it overtakes it.
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

namespace egress::store {

/// Puts and deletions in one buffer. The last word on a key is the one that counts.
class Batch {
  public:
    /// Encodes the row as it is now.
    void put(const Row& row);
    /// Only the key columns of the row matter.
    void erase(const Row& row);
    /// Adds the row's count to what the database has.
    void count(EventRow row) { events_.push_back(std::move(row)); }
    /// Sets a key of "meta"; an empty value deletes it.
    void set_meta(std::string key, std::string value);
    /// Everything of the other batch, behind what is here; rows only.
    void append(const Batch& other);
    void clear();
    /// Bytes that it holds on to.
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

    std::vector<std::uint8_t> bytes_;
    std::vector<Entry> entries_;
    std::vector<EventRow> events_;
    std::vector<std::pair<std::string, std::string>> metas_;
};

class Store {
  public:
    /// What became of the batch that was submitted last.
    struct Outcome {
        bool durable = false;
        std::string error; ///< why not; the batch is kept
    };

    static Result<std::unique_ptr<Store>> start(Env env);
    /// Waits for the commit under way.
    ~Store();

    /// Readable when an outcome can be taken.
    int fd() const { return wake_.fd(); }
    /// No batch is under way or waiting to be tried again.
    bool idle() const { return !busy_; }
    /// Only while idle: swaps `batch` against an empty one whose memory is warm.
    void submit(Batch& batch);
    /// Nothing while the commit goes on. After a failure retry() must be called (later).
    std::optional<Outcome> take_outcome();
    void retry();
    /// Only while idle: gives back the memory that a burst left in the batch.
    void shrink();
    /// Waits for the batch under way (at shutdown).
    Outcome wait();

    const Env& env() const { return env_; }
    const EventTable::Counters& events() const { return events_.counters(); }
    /// Rows that are set aside because they were damaged: when it was opened, and since.
    std::uint64_t damaged() const { return env_.set_aside() + damaged_; }

  private:
    explicit Store(Env env) : env_(std::move(env)) {}
    void run();
    Result<> write(const Batch& batch);
    static int write_entries(Transaction& txn, const Batch& batch);
    int write_others(Transaction& txn, const Batch& batch);
    void hand_over();

    Env env_;
    EventTable events_; // the writer's
    std::atomic<std::uint64_t> damaged_{0};
    Bell wake_;
    bool busy_ = false; // the loop's view
    std::mutex mutex_;
    std::condition_variable changed_;
    Batch batch_; // the writer's while work_ is set
    bool work_ = false;
    bool stop_ = false;
    std::optional<Outcome> outcome_;
    Worker worker_;
};

} // namespace egress::store
