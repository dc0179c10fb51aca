#include "daemon/closer.h"

#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>
#include <vector>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/log.h"

namespace egress {

namespace {

constexpr std::size_t most_lanes = 32;
constexpr std::size_t most_waiting = 1024; // descriptors in one lane

int option(int fd, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

/// A UDP socket's close never waits, whatever its owner does to it meanwhile.
bool is_udp(int fd) {
    return option(fd, SO_PROTOCOL) == IPPROTO_UDP && option(fd, SO_DOMAIN) != AF_UNIX;
}

/// A socket that does not linger; only true for longer than a moment if its owner is not hostile.
bool is_prompt_socket(int fd) {
    linger wait{};
    socklen_t length = sizeof wait;
    return getsockopt(fd, SOL_SOCKET, SO_LINGER, &wait, &length) == 0 && wait.l_onoff == 0;
}

} // namespace

struct Closer::Lane {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<int> waiting;
    std::size_t unfinished = 0; // waiting, or being closed now
    bool stop = false;

    void run() {
        std::unique_lock lock(mutex);
        while (!stop) {
            changed.wait(lock, [this] { return stop || !waiting.empty(); });
            std::vector<int> batch;
            batch.swap(waiting);
            lock.unlock();
            for (const int fd : batch) {
                close(fd);
                const std::scoped_lock counting(mutex);
                unfinished -= 1;
            }
            lock.lock();
        }
    }
};

Closer::Closer() = default;

Closer::~Closer() {
    for (const auto& [uid, lane] : lanes_) {
        const std::scoped_lock lock(lane->mutex);
        lane->stop = true;
        lane->changed.notify_all();
    }
    if (overflow_) {
        const std::scoped_lock lock(overflow_->mutex);
        overflow_->stop = true;
        overflow_->changed.notify_all();
    }
}

void Closer::dispose(std::uint32_t uid, int fd, int protocol) {
    const bool udp = protocol == 0 ? is_udp(fd) : protocol == IPPROTO_UDP;
    if (udp || (uid == 0 && is_prompt_socket(fd))) {
        close(fd);
        return;
    }
    push(uid, fd);
}

void Closer::dispose_connection(std::uint32_t uid, int fd) {
    push(uid, fd);
}

bool Closer::full(std::uint32_t uid) const {
    const auto found = lanes_.find(uid);
    const auto& lane = found != lanes_.end() ? found->second : overflow_;
    if (!lane) {
        return false;
    }
    const std::scoped_lock lock(lane->mutex);
    return lane->unfinished >= most_waiting;
}

void Closer::push(std::uint32_t uid, int fd) {
    const auto lane = lane_of(uid);
    if (!lane) {
        close(fd); // no thread can be had: rather a wait than a leak
        return;
    }
    const std::scoped_lock lock(lane->mutex);
    lane->waiting.push_back(fd);
    lane->unfinished += 1;
    lane->changed.notify_one();
}

std::shared_ptr<Closer::Lane> Closer::lane_of(std::uint32_t uid) {
    if (const auto found = lanes_.find(uid); found != lanes_.end()) {
        return found->second;
    }
    const bool own = lanes_.size() < most_lanes;
    if (!own && overflow_) {
        return overflow_;
    }
    auto lane = std::make_shared<Lane>();
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = true;
    try { // std::thread reports a lack of threads this way, and only this way
        std::thread([lane] { lane->run(); }).detach();
    } catch (const std::system_error&) {
        started = false;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!started) {
        log::error("closer", "cannot start a thread to close descriptors in");
        return overflow_;
    }
    (own ? lanes_[uid] : overflow_) = lane;
    return lane;
}

} // namespace egress
