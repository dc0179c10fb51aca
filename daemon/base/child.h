// Child processes that run beside the loop: spawn, read lines, reap.
//
// A child gets its own process group (so that its own children die with it), a minimal environment
// and pipes. A line longer than the limit ends the reading with an error.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <sys/types.h>
#include <systemd/sd-event.h>

#include "daemon/base/loop.h"
#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress {

/// Collects exit statuses. One per process, because SIGCHLD is process-wide.
class Reaper {
  public:
    /// SIGCHLD must be blocked in every thread.
    explicit Reaper(sd_event* event);
    /// Calls `done` once with the wait status; empty: only reap.
    void expect(pid_t pid, std::function<void(int)> done);
    /// Reaps `pid` without calling its `done`.
    void forget(pid_t pid);

  private:
    void reap();
    std::map<pid_t, std::function<void(int)>> waiting_;
    Source source_;
};

class Child {
  public:
    struct Handlers {
        std::function<void(std::string_view)>
            line; ///< a line of standard output, without the newline
        std::function<void(const std::string&)> broken; ///< end of output, a line too long, EPIPE
        std::function<void(int)> exited;                ///< wait status
    };
    static constexpr std::size_t max_line = 512;

    /// Starts argv[0]. `environment` has "KEY=value" entries; PATH and LANG are fixed.
    static Result<std::unique_ptr<Child>> spawn(sd_event* event, Reaper& reaper,
                                                const std::vector<std::string>& argv,
                                                const std::vector<std::string>& environment,
                                                Handlers handlers);
    /// Kills the whole group if it still runs; calls no handler afterwards.
    ~Child();

    /// Kills the group and calls no handler afterwards. Unlike deletion, safe in its own handlers.
    void abandon();

    /// Queues bytes for standard input; flush() sends many requests in one system call.
    void write(std::string_view bytes) { out_.append(bytes); }
    /// Writes what the pipe accepts now; the rest follows when it accepts more.
    void flush();
    /// Reads what is in the output pipe now, for example of a child that has ended.
    void drain();
    std::size_t queued() const { return out_.size() - written_; }
    pid_t pid() const { return pid_; }

  private:
    Child(sd_event* event, Reaper& reaper, Handlers handlers)
        : event_(event), reaper_(reaper), handlers_(std::move(handlers)) {}
    void on_output(std::uint32_t events);
    void on_error_output();
    Result<> watch();
    void read_lines();
    void stop_reading();
    void update_interest();

    sd_event* event_;
    Reaper& reaper_;
    Handlers handlers_;
    Fd pipe_;  ///< a stream socket pair: the child's standard input and output
    Fd error_; ///< its standard error
    Source pipe_source_;
    Source error_source_;
    pid_t pid_ = -1;
    bool running_ = false;
    std::string in_;
    std::string out_;
    std::size_t written_ = 0;
    /// False once destroyed or abandoned: handlers check it.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace egress
