// One handle in the hands of many: signal handlers, threads, and programs that close descriptors.
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <doctest/doctest.h>

#include "lib/api.h"
#include "test/unit/lib_listener.h"

using namespace egress;
using namespace egress::test;

namespace {

/// Takes whatever arrives at a listener, on a thread of its own, and counts good records.
class Drain {
  public:
    explicit Drain(const std::string& path)
        : listener_(std::make_unique<Listener>(path)), thread_([this] { run(); }) {
        // The handlers below are for the test's threads, not for this one.
    }
    ~Drain() { finish(); }

    /// Ends once everything that was sent is read.
    long finish() {
        stop_ = true;
        if (thread_.joinable()) {
            thread_.join();
        }
        listener_.reset();
        return good_;
    }

  private:
    void run() {
        std::vector<Fd> connections;
        for (;;) {
            // Read before looking, so that what came before the stop is seen by the last look.
            const bool last = stop_;
            std::vector<pollfd> wait{{listener_->fd(), POLLIN, 0}};
            for (const Fd& connection : connections) {
                wait.push_back({connection.get(), POLLIN, 0});
            }
            if (poll(wait.data(), wait.size(), last ? 0 : 1) == 0) {
                if (last) {
                    return;
                }
                continue;
            }
            for (std::size_t i = wait.size() - 1; i > 0; --i) {
                if (wait[i].revents != 0 && !take(connections[i - 1].get())) {
                    connections.erase(connections.begin() + static_cast<std::ptrdiff_t>(i) - 1);
                }
            }
            if (wait[0].revents != 0) {
                connections.push_back(listener_->accept());
            }
        }
    }
    bool take(int connection) {
        const auto got = receive(connection);
        good_ += got && got->fault == wire::Fault::none ? 1 : 0;
        return got.has_value();
    }

    std::unique_ptr<Listener> listener_;
    std::atomic<bool> stop_{false};
    std::atomic<long> good_{0};
    std::thread thread_;
};

egress_handle* handler_handle = nullptr;
volatile std::sig_atomic_t handler_runs = 0;
volatile std::sig_atomic_t handler_sent = 0;
volatile std::sig_atomic_t handler_errno = 0;

void report_in_handler(int) {
    const int saved = errno;
    errno = 4321;
    handler_runs = handler_runs + 1;
    if (egress_report_r(handler_handle, EGRESS_AUTH_FAIL, 0, "handler") == 0) {
        handler_sent = handler_sent + 1;
        handler_errno = errno;
    }
    errno = saved;
}

/// The handler runs every 100 us of this process's computing time, until this goes.
class Interrupting {
  public:
    explicit Interrupting(egress_handle* handle) {
        handler_handle = handle;
        handler_runs = 0;
        handler_sent = 0;
        struct sigaction action {};
        action.sa_handler = report_in_handler;
        REQUIRE(sigaction(SIGPROF, &action, &old_) == 0);
        const itimerval every{{0, 100}, {0, 100}};
        REQUIRE(setitimer(ITIMER_PROF, &every, nullptr) == 0);
    }
    ~Interrupting() {
        const itimerval never{};
        setitimer(ITIMER_PROF, &never, nullptr);
        sigaction(SIGPROF, &old_, nullptr);
    }

  private:
    struct sigaction old_ {};
};

/// Number of the handle's connection: the descriptor that egress_open added.
int number_of(egress_handle*& handle) {
    const std::vector<int> before = open_fds();
    handle = egress_open();
    for (const int fd : open_fds()) {
        if (std::find(before.begin(), before.end(), fd) == before.end()) {
            return fd;
        }
    }
    return -1;
}

bool is_expected(int error) {
    return error == ENOENT || error == ECONNREFUSED || error == EPIPE || error == ECONNRESET ||
           error == EAGAIN;
}

} // namespace

TEST_CASE("a signal handler reports on the handle that it interrupted, and nothing is lost") {
    const Place place;
    sigset_t profiling;
    sigemptyset(&profiling);
    sigaddset(&profiling, SIGPROF);
    pthread_sigmask(SIG_BLOCK, &profiling, nullptr); // the drain's thread inherits this
    Drain drain(place.path);
    pthread_sigmask(SIG_UNBLOCK, &profiling, nullptr);
    egress_handle* handle = egress_open();
    long sent = 0;
    {
        const Interrupting interrupting(handle);
        for (long i = 0; handler_runs < 200; ++i) {
            REQUIRE(i < 50'000'000);
            sent += egress_report_r(handle, EGRESS_AUTH_FAIL, 0, "main") == 0 ? 1 : 0;
        }
    }
    egress_close(handle);
    CHECK(handler_sent > 0);
    CHECK(handler_errno == 4321);
    CHECK(drain.finish() == sent + handler_sent);
}

TEST_CASE("a signal handler during restarts leaves no descriptor and no wrong error") {
    const Place place;
    const std::size_t fds = open_fds().size();
    egress_handle* handle = egress_open();
    {
        const Interrupting interrupting(handle);
        for (long restart = 0; handler_runs < 300; ++restart) {
            REQUIRE(restart < 10'000'000);
            const Listener listener(place.path);
            for (int i = 0; i < 3; ++i) {
                errno = 0;
                if (egress_report_r(handle, EGRESS_AUTH_FAIL, 0, "main") != 0) {
                    REQUIRE(is_expected(errno));
                }
            }
        }
    }
    egress_close(handle);
    CHECK(open_fds().size() == fds);
}

TEST_CASE("threads share a handle across restarts; no stranger's socket sees a report") {
    const Place place;
    const std::size_t fds = open_fds().size();
    egress_handle* handle = egress_open();
    std::atomic<bool> stop{false};
    std::atomic<long> strays{0};
    std::atomic<long> wrong{0};
    std::atomic<long> sent{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] {
            while (!stop) {
                if (egress_report_r(handle, EGRESS_AUTH_FAIL, 0, "thread") == 0) {
                    ++sent;
                } else if (!is_expected(errno)) {
                    ++wrong;
                }
            }
        });
    }
    // Takes every number that becomes free, with sockets that would take a record gladly.
    threads.emplace_back([&] {
        while (!stop) {
            int pair[2];
            if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
                continue;
            }
            char byte = 0;
            strays += recv(pair[0], &byte, 1, 0) >= 0 ? 1 : 0;
            strays += recv(pair[1], &byte, 1, 0) >= 0 ? 1 : 0;
            close(pair[0]);
            close(pair[1]);
        }
    });
    for (int restart = 0; restart < 300; ++restart) {
        const Listener listener(place.path);
        const long target = sent + 20;
        while (sent < target) {
            const Fd connection = readable(listener.fd(), 1) ? listener.accept() : Fd();
        }
    }
    stop = true;
    for (std::thread& thread : threads) {
        thread.join();
    }
    egress_close(handle);
    CHECK(strays == 0);
    CHECK(wrong == 0);
    CHECK(open_fds().size() == fds);
}

TEST_CASE("the connection does not reach a program that is executed, nor does its successor") {
    const Place place;
    egress_handle* handle = nullptr;
    int number = -1;
    {
        const Listener listener(place.path);
        number = number_of(handle);
        REQUIRE(number >= 0);
        CHECK(fcntl(number, F_GETFD) == FD_CLOEXEC);
    }
    const Listener listener(place.path);
    CHECK(egress_report_r(handle, EGRESS_AUTH_FAIL, -1, "x") == 0);
    CHECK(fcntl(number, F_GETFD) == FD_CLOEXEC); // in the place of the old one
    CHECK((fcntl(number, F_GETFL) & O_NONBLOCK) != 0);
    egress_close(handle);
    CHECK(fcntl(number, F_GETFD) == -1);
}

TEST_CASE("a thread that is being cancelled finishes its report") {
    const Place place;
    const Listener listener(place.path);
    const std::size_t fds = open_fds().size();
    int result = -1;
    pthread_t thread;
    REQUIRE(pthread_create(
                &thread, nullptr,
                [](void* out) -> void* {
                    pthread_cancel(pthread_self()); // takes effect at the next cancellation point
                    *static_cast<int*>(out) = egress_report(EGRESS_AUTH_FAIL, 0, "cancelled");
                    pthread_testcancel();
                    *static_cast<int*>(out) = 99;
                    return nullptr;
                },
                &result) == 0);
    void* end = nullptr;
    REQUIRE(pthread_join(thread, &end) == 0);
    CHECK(end == PTHREAD_CANCELED);
    CHECK(result == 0);
    CHECK(listener.one().record.message == "cancelled");
    CHECK(open_fds().size() == fds);
}

TEST_CASE("a number that the program closed and reused is left alone") {
    const Place place;
    const Listener listener(place.path);
    egress_handle* handle = nullptr;
    const int number = number_of(handle);
    REQUIRE(number >= 0);
    const Fd first = listener.accept();
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    REQUIRE(dup2(pair[1], number) == number); // closes ours
    CHECK(egress_report_r(handle, EGRESS_AUTH_FAIL, -1, "secret") == 0);
    char byte = 0;
    CHECK(recv(pair[0], &byte, 1, 0) == -1);
    CHECK(listener.one().record.message == "secret");
    CHECK(egress_report_r(handle, EGRESS_AUTH_FAIL, -1, "again") == 0);
    egress_close(handle);
    CHECK(same_file(number, pair[1])); // still the program's
    close(number);
    close(pair[0]);
    close(pair[1]);
}

TEST_CASE("closing a handle whose number belongs to somebody else closes nothing") {
    const Place place;
    const Listener listener(place.path);
    egress_handle* handle = nullptr;
    const int number = number_of(handle);
    REQUIRE(number >= 0);
    const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    REQUIRE(dup2(null.get(), number) == number);
    egress_close(handle);
    CHECK(same_file(number, null.get()));
    close(number);
}
