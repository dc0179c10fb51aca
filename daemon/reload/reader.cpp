#include "daemon/reload/reader.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/fd.h"

namespace egress {

/// What the two threads share. The reading one keeps it when the daemon goes.
struct Reader::Lane {
    Fd ready{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)}; ///< readable when something is done
    std::mutex mutex;                                 // guards the rest
    std::condition_variable changed;
    std::deque<Read> waiting;
    std::deque<policy::Parsed> done; ///< in the same order
    bool stop = false;

    void run() {
        pthread_setname_np(pthread_self(), "egressd-rules");
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
            const std::uint64_t one = 1;
            [[maybe_unused]] const auto put = write(ready.get(), &one, sizeof one);
        }
    }
};

Reader::~Reader() {
    if (lane_) {
        const std::scoped_lock lock(lane_->mutex);
        lane_->stop = true;
        lane_->changed.notify_all();
    }
}

bool Reader::start() {
    if (lane_) {
        return true;
    }
    auto lane = std::make_shared<Lane>();
    sd_event_source* source = nullptr;
    if (!lane->ready ||
        sd_event_add_io(event_, &source, lane->ready.get(), EPOLLIN, on_read, this) < 0) {
        return false;
    }
    source_.reset(source);
    try {
        std::thread([lane] { lane->run(); }).detach();
    } catch (const std::system_error&) {
        source_.reset();
        return false;
    }
    lane_ = std::move(lane);
    return true;
}

void Reader::read(Read read, Then then) {
    if (!start()) {
        then(read());
        return;
    }
    thens_.push_back(std::move(then));
    const std::scoped_lock lock(lane_->mutex);
    lane_->waiting.push_back(std::move(read));
    lane_->changed.notify_one();
}

int Reader::on_read(sd_event_source*, int, std::uint32_t, void* self) {
    auto* const reader = static_cast<Reader*>(self);
    Lane& lane = *reader->lane_;
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(lane.ready.get(), &count, sizeof count);
    std::unique_lock lock(lane.mutex);
    while (!lane.done.empty()) {
        auto parsed = std::move(lane.done.front());
        lane.done.pop_front();
        lock.unlock();
        const Then then = std::move(reader->thens_.front());
        reader->thens_.pop_front();
        then(std::move(parsed));
        lock.lock();
    }
    return 0;
}

} // namespace egress
