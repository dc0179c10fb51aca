#include "daemon/base/worker.h"

#include <csignal>
#include <cstdint>
#include <system_error>
#include <utility>

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace egress {

Result<Worker> Worker::start(const char* name, std::function<void()> body) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // the new thread inherits the mask
    Result<Worker> worker;
    try {
        worker = Worker(std::thread([name, run = std::move(body)] {
            pthread_setname_np(pthread_self(), name);
            run();
        }));
    } catch (const std::system_error& error) {
        worker = fail_errno("cannot start a thread (a limit of tasks, pids or memory?)",
                            error.code().value());
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return worker;
}

void Worker::join() {
    if (thread_.joinable()) {
        thread_.join();
    }
}

void Worker::detach() {
    if (thread_.joinable()) {
        thread_.detach();
    }
}

Bell::Bell() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void Bell::ring() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto put = write(fd_.get(), &one, sizeof one);
}

void Bell::quiet() const {
    std::uint64_t rings = 0;
    [[maybe_unused]] const auto got = read(fd_.get(), &rings, sizeof rings);
}

} // namespace egress
