// Threads beside the loop for work that may wait, and a bell by which they wake the loop.
//
// Every thread of the daemon starts here: it has a name and blocks all signals, which the loop
// handles. If the system refuses a thread (a limit of the service's tasks, of a container's pids),
// that is an ordinary failure.
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
    /// Waits until the body returns.
    void join();
    /// Detaches: the thread ends with the process. The body must own what it uses.
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
