#include "daemon/reload/reader.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "daemon/base/worker.h"

namespace egress {

/// Data that both threads share. The reading thread keeps it when the RulesReader is destroyed.
struct RulesReader::Lane {
    Bell ready;       ///< rings when a read is done
    std::mutex mutex; ///< guards the rest
    std::condition_variable changed;
    std::deque<Read> waiting;
    std::deque<policy::Parsed> done; ///< in the same order
    bool stop = false;

    void run() {
        std::unique_lock lock(mutex);
        while (!stop) {
            changed.wait(lock, [this] { return stop || !waiting.empty(); });
            if (stop) {
                break;
            }
            const Read read = std::move(waiting.front());
            waiting.pop_front();
            lock.unlock();
            auto parsed = read();
            lock.lock();
            done.push_back(std::move(parsed));
            ready.ring();
        }
    }
};

RulesReader::~RulesReader() {
    if (lane_) {
        const std::scoped_lock lock(lane_->mutex);
        lane_->stop = true;
        lane_->changed.notify_all();
    }
}

bool RulesReader::start() {
    if (lane_) {
        return true;
    }
    auto lane = std::make_shared<Lane>();
    if (!lane->ready) {
        return false;
    }
    auto source = watch(event_, lane->ready.fd(), EPOLLIN, [this](std::uint32_t) { take_read(); });
    auto worker = source ? Worker::start("egressd-rules", [lane] { lane->run(); })
                         : std::unexpected(source.error());
    if (!worker) {
        return false;
    }
    worker->detach();
    source_ = std::move(*source);
    lane_ = std::move(lane);
    return true;
}

void RulesReader::read(Read read, Then then) {
    if (!start()) {
        then(read());
        return;
    }
    thens_.push_back(std::move(then));
    const std::scoped_lock lock(lane_->mutex);
    lane_->waiting.push_back(std::move(read));
    lane_->changed.notify_one();
}

void RulesReader::take_read() {
    Lane& lane = *lane_;
    lane.ready.quiet();
    std::unique_lock lock(lane.mutex);
    while (!lane.done.empty()) {
        auto parsed = std::move(lane.done.front());
        lane.done.pop_front();
        lock.unlock();
        const Then then = std::move(thens_.front());
        thens_.pop_front();
        then(std::move(parsed));
        lock.lock();
    }
}

} // namespace egress
