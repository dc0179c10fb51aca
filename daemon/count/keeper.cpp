#include "daemon/count/keeper.h"

#include <algorithm>
#include <utility>

#include "daemon/base/memory.h"

#include "daemon/base/log.h"

namespace egress {

namespace {
/// Rows in one commit: bounds how long the loop encodes, how long the writer is away, and the pages
/// that LMDB keeps for its next transaction. Beyond some thousands the fsync hardly counts any
/// more.
constexpr std::size_t rows_per_commit = 8'192;
/// ... except where the tree is large: each commit copies a page for nearly every row that it
/// touches, so a part of the whole at a time writes far less.
constexpr std::size_t share_per_commit = 16;
constexpr std::uint64_t retry_usec = 1'000'000;
/// Between two submits that no one waits for. Under a flood, commits that follow one another at
/// once take more of the processor than the reports; a crash of the machine may lose this much
/// more.
constexpr std::uint64_t spacing_usec = 10'000;
} // namespace

Result<std::unique_ptr<Keeper>> Keeper::make(sd_event* event, Ledger& ledger,
                                             std::unique_ptr<store::Store> store) {
    std::unique_ptr<Keeper> keeper(new Keeper(event, ledger, std::move(store)));
    auto source = watch(event, keeper->store_->fd(), EPOLLIN,
                        [raw = keeper.get()](std::uint32_t) { raw->take_outcome(); });
    if (!source) {
        return std::unexpected(source.error());
    }
    keeper->outcome_source_ = std::move(*source);
    return keeper;
}

bool Keeper::nothing_to_do() const {
    const bool counted = counts_due_ && counts_ != nullptr && counts_->changed();
    return !ledger_.changed() && metas_.empty() && !counted;
}

void Keeper::set_meta(std::string key, std::string value, std::function<void(bool)> done) {
    metas_.push_back({std::move(key), std::move(value), std::move(done)});
}

void Keeper::pump() {
    if (!store_->idle() || nothing_to_do()) {
        return;
    }
    std::uint64_t now = 0;
    sd_event_now(event_, CLOCK_MONOTONIC, &now);
    const bool awaited = !waiters_.empty() || !metas_.empty();
    if (awaited || now >= submitted_usec_ + spacing_usec) {
        submitted_usec_ = now;
        submit();
    } else if (!spacer_) {
        auto timer = call_after(
            event_, spacing_usec, [] {}, 1'000); // the turn's end submits
        spacer_ = std::move(timer).value_or(nullptr);
    } else if (sd_event_source_get_enabled(spacer_.get(), nullptr) == 0) {
        call_again(spacer_, submitted_usec_ + spacing_usec - now);
    }
}

void Keeper::submit() {
    batch_.clear();
    ledger_.collect(batch_, std::max(rows_per_commit, ledger_.table().size() / share_per_commit));
    in_batch_ = ledger_.collected();
    for (auto& meta : std::exchange(metas_, {})) {
        batch_.set_meta(std::move(meta.key), std::move(meta.value));
        meta_waits_.push_back(std::move(meta.done));
    }
    if (counts_ != nullptr) {
        counts_->collect(batch_);
        counts_due_ = false;
    }
    store_->submit(batch_);
}

void Keeper::tick() {
    counts_due_ = true;
    const bool quiet =
        store_->idle() && !ledger_.changed() && counters_.commits == commits_at_tick_;
    commits_at_tick_ = counters_.commits;
    if (!quiet) {
        shrunk_ = false;
    } else if (!std::exchange(shrunk_, true)) {
        batch_ = store::Batch{};
        store_->shrink();
        ledger_.shrink();
        trim_memory();
    }
}

void Keeper::when_durable(std::function<void(bool)> done) {
    if (durable_ >= ledger_.change_number()) {
        done(true);
        return;
    }
    waiters_.emplace_back(ledger_.change_number(), std::move(done));
}

void Keeper::take_outcome() {
    if (const auto outcome = store_->take_outcome()) {
        settle(*outcome);
    }
    if (const Events events = store_->take_events()) {
        for (const auto& done : std::exchange(event_waits_, {})) {
            done(events);
        }
    }
}

bool Keeper::read_events(std::function<void(const Events&)> done) {
    constexpr std::size_t most = 16; // each may hold the rows for as long as its reader is slow
    if (event_waits_.size() >= most) {
        return false;
    }
    event_waits_.push_back(std::move(done));
    if (event_waits_.size() == 1) {
        store_->ask_events();
    }
    return true;
}

void Keeper::settle(const store::Store::Outcome& outcome) {
    if (outcome.durable) {
        if (!counters_.last_error.empty()) {
            log::notice("store-well", "the database is written again");
        }
        counters_.commits += 1;
        counters_.last_error.clear();
        durable_ = in_batch_;
        answer_waiters(durable_, true);
        answer_metas(true);
        return;
    }
    counters_.failures += 1;
    counters_.last_error = outcome.error;
    log::error("store", "{}; nothing new is durable until this is mended, blocks go on",
               outcome.error);
    answer_waiters(ledger_.change_number(), false);
    answer_metas(false);
    retry_later();
}

void Keeper::answer_metas(bool durable) {
    for (const auto& done : std::exchange(meta_waits_, {})) {
        done(durable);
    }
}

/// Tells those who wait for a change up to `number`.
void Keeper::answer_waiters(std::uint64_t number, bool durable) {
    while (!waiters_.empty() && waiters_.front().first <= number) {
        auto done = std::move(waiters_.front().second);
        waiters_.pop_front();
        done(durable);
    }
}

void Keeper::retry_later() {
    if (!retry_source_) {
        retry_source_ =
            call_after(event_, retry_usec, [this] { store_->retry(); }).value_or(nullptr);
        return;
    }
    call_again(retry_source_, retry_usec);
}

Result<> Keeper::flush() {
    // Nothing changes any more, so this ends with the changes that are there.
    bool failed_before = !counters_.last_error.empty();
    counts_due_ = true;
    while (!store_->idle() || !nothing_to_do()) {
        if (failed_before) {
            store_->retry();
            failed_before = false;
        } else {
            if (store_->idle()) {
                submit();
            }
        }
        const auto outcome = store_->wait();
        if (!outcome.durable) {
            return fail(outcome.error);
        }
        durable_ = in_batch_;
        counters_.commits += 1;
    }
    return {};
}

Result<> Keeper::finish() {
    outcome_source_.reset();
    retry_source_.reset();
    spacer_.reset();
    auto flushed = flush();
    answer_waiters(ledger_.change_number(), flushed.has_value());
    answer_metas(flushed.has_value());
    return flushed;
}

} // namespace egress
