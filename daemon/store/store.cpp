#include "daemon/store/store.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include <sys/statvfs.h>

namespace egress::store {

namespace {

/// True if the directory's file system has no room for a few pages more.
bool is_full(const std::string& directory) {
    constexpr fsblkcnt_t few = 16;
    struct statvfs found {};
    return statvfs(directory.c_str(), &found) == 0 && found.f_bavail < few;
}

} // namespace

void Batch::put(const Row& row) {
    Entry entry{};
    entry.key = static_cast<std::uint32_t>(bytes_.size());
    encode_key(row, bytes_);
    entry.value = static_cast<std::uint32_t>(bytes_.size());
    encode_value(row, bytes_);
    append_checksum(bytes_, entry.key, entry.value);
    entry.end = static_cast<std::uint32_t>(bytes_.size());
    entries_.push_back(entry);
}

void Batch::erase(const Row& row) {
    Entry entry{};
    entry.key = static_cast<std::uint32_t>(bytes_.size());
    encode_key(row, bytes_);
    entry.value = entry.end = static_cast<std::uint32_t>(bytes_.size());
    entries_.push_back(entry);
}

void Batch::append(const Batch& other) {
    const auto shift = static_cast<std::uint32_t>(bytes_.size());
    bytes_.insert(bytes_.end(), other.bytes_.begin(), other.bytes_.end());
    for (const Entry& entry : other.entries_) {
        entries_.push_back({entry.key + shift, entry.value + shift, entry.end + shift});
    }
}

void Batch::set_meta(std::string key, std::string value) {
    metas_.emplace_back(std::move(key), std::move(value));
}

void Batch::clear() {
    bytes_.clear();
    entries_.clear();
    events_.clear();
    metas_.clear();
}

std::span<const std::uint8_t> Batch::key_of(const Entry& entry) const {
    return std::span(bytes_).subspan(entry.key, entry.value - entry.key);
}

void Batch::sort() {
    // In key order LMDB walks the tree once from left to right. Offsets grow, so the last entry for
    // a key stays last.
    std::ranges::sort(entries_, [this](const Entry& a, const Entry& b) {
        const auto left = key_of(a);
        const auto right = key_of(b);
        const int order =
            std::memcmp(left.data(), right.data(), std::min(left.size(), right.size()));
        if (order != 0) {
            return order < 0;
        }
        return left.size() != right.size() ? left.size() < right.size() : a.key < b.key;
    });
}

std::vector<Change> Batch::changes() {
    sort();
    std::vector<Change> out;
    out.reserve(entries_.size());
    for (std::size_t i = 0; i < entries_.size(); ++i) {
        const auto key = key_of(entries_[i]);
        if (i + 1 == entries_.size() || !std::ranges::equal(key, key_of(entries_[i + 1]))) {
            const auto& [begin, value, end] = entries_[i];
            out.push_back({key, View(bytes_).subspan(value, end - value)});
        }
    }
    return out;
}

Result<std::unique_ptr<Store>> Store::start(Env env) {
    std::unique_ptr<Store> store(new Store(std::move(env)));
    if (!store->wake_) {
        return fail_errno("cannot make an eventfd");
    }
    auto worker = Worker::start("egressd-store", [raw = store.get()] { raw->run(); });
    if (!worker) {
        return std::unexpected(worker.error());
    }
    store->worker_ = std::move(*worker);
    return store;
}

Store::~Store() {
    {
        const std::scoped_lock lock(mutex_);
        stop_ = true;
    }
    changed_.notify_all();
    worker_.join();
}

void Store::submit(Batch& batch) {
    std::swap(batch_.bytes_, batch.bytes_);
    std::swap(batch_.entries_, batch.entries_);
    std::swap(batch_.events_, batch.events_);
    std::swap(batch_.metas_, batch.metas_);
    batch.clear();
    hand_over();
}

void Store::retry() {
    hand_over();
}

void Store::hand_over() {
    busy_ = true;
    {
        const std::scoped_lock lock(mutex_);
        work_ = true;
        outcome_.reset();
    }
    changed_.notify_all();
}

std::optional<Store::Outcome> Store::take_outcome() {
    wake_.quiet();
    const std::scoped_lock lock(mutex_);
    if (!outcome_) {
        return std::nullopt;
    }
    auto outcome = std::move(outcome_);
    outcome_.reset();
    busy_ = !outcome->durable;
    return outcome;
}

void Store::shrink() {
    batch_ = Batch{};
}

Store::Outcome Store::wait() {
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return outcome_.has_value() || !work_; });
    }
    return take_outcome().value_or(Outcome{true, {}});
}

void Store::ask_events() {
    {
        const std::scoped_lock lock(mutex_);
        events_wanted_ = true;
    }
    changed_.notify_all();
}

std::shared_ptr<const Store::Events> Store::take_events() {
    const std::scoped_lock lock(mutex_);
    return std::exchange(events_read_, nullptr);
}

/// On the writer's thread: elsewhere the map could grow meanwhile, which LMDB forbids.
Store::Events Store::read_events() const {
    Events out;
    const auto row = [&](EventRow&& each) {
        out.rows.push_back(std::move(each));
        return true;
    };
    const auto read = env_.each_event(row, [&](Damage&&) { ++out.damaged; });
    out.error = read ? "" : read.error().text;
    return out;
}

void Store::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return work_ || stop_ || events_wanted_; });
        if (!work_ && !stop_) {
            events_wanted_ = false;
            lock.unlock();
            auto events = std::make_shared<const Events>(read_events());
            lock.lock();
            events_read_ = std::move(events);
            wake_.ring();
            continue;
        }
        if (!work_) {
            return;
        }
        lock.unlock();
        const auto written = write(batch_);
        lock.lock();
        work_ = false;
        outcome_ = written ? Outcome{true, {}} : Outcome{false, written.error().text};
        changed_.notify_all();
        wake_.ring();
    }
}

int Store::write_others(Transaction& txn, const Batch& batch) {
    for (const auto& row : batch.events_) {
        if (const int code = events_.add(txn, row); code != 0) {
            return code;
        }
    }
    for (const auto& [name, text] : batch.metas_) {
        if (const int code = txn.put_text(TableId::meta, name, text); code != 0) {
            return code;
        }
    }
    return 0;
}

Result<> Store::write(Batch& batch) {
    // A full map is only address space: grow it and try again. A full disk is an error.
    constexpr int most_growths = 16;
    int dead = 0;
    mdb_reader_check(env_.handle(), &dead); // a killed `dump` would pin old pages for ever
    const auto changes = batch.changes();
    for (int attempt = 0; attempt < most_growths; ++attempt) {
        Transaction txn(env_.handle(), env_.handles());
        int code = txn.begin();
        code = code == 0 ? journal_.write(txn, changes) : code;
        code = code == 0 ? write_others(txn, batch) : code;
        code = code == 0 ? txn.commit() : code;
        if (code == 0) {
            damaged_ += txn.damaged();
            return {};
        }
        events_.forget();
        journal_.forget();
        if (code != MDB_MAP_FULL) {
            // LMDB says EIO of a page that was written in part, as it is where space runs out.
            const bool full = code == EIO && is_full(env_.directory());
            return fail_lmdb("cannot write the database in " + env_.directory(),
                             full ? ENOSPC : code);
        }
        MDB_envinfo info{};
        mdb_env_info(env_.handle(), &info);
        mdb_env_set_mapsize(env_.handle(), info.me_mapsize * 2);
    }
    return fail("cannot write the database in " + env_.directory() + ": its map cannot grow");
}

} // namespace egress::store
