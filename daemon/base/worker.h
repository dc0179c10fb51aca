// Threads beside the loop, for what waits; and how they tell the loop that something is done.
//
// Every thread of the daemon is made here: it has a name, and signals stay the loop's. Where no
// thread can be had (a limit of the service's tasks, of a container's pids) that is a failure like
// any other.
#pragma once

#include <functional>
#include <thread>

#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress {

class Worker {
  public:
    Worker() = default;
    Worker(Worker&&) = default;
    Worker& operator=(Worker&&) = default;
    ~Worker() { join(); }

    /// Runs `body` on a new thread. `name` has at most 15 bytes and shows in ps(1).
    static Result<Worker> start(const char* name, std::function<void()> body);
    /// Waits for the end of the body.
    void join();
    /// Lets go: the thread ends with the process. The body must own what it uses.
    void detach();

  private:
    explicit Worker(std::thread thread) : thread_(std::move(thread)) {}
    std::thread thread_;
};

/// A descriptor that a worker makes readable for the loop.
class Bell {
  public:
    Bell();
    explicit operator bool() const { return static_cast<bool>(fd_); }
    int fd() const { return fd_.get(); }
    void ring() const;  ///< from any thread
    void quiet() const; ///< makes it unreadable again

  private:
    Fd fd_;
};

} // namespace egress
