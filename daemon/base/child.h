// Child processes that nobody waits for: spawn, read lines, reap.
//
// A child gets its own process group (so that what it started goes with it), a minimal environment,
// and pipes. Reading is bounded: a line that is longer than the limit ends the reading with an
// error.
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

/// Collects exit statuses. One per process, because SIGCHLD is.
class Reaper {
  public:
    /// SIGCHLD must be blocked in every thread.
    explicit Reaper(sd_event* event);
    /// `done` gets the wait status, once; it may be empty (nobody cares any more).
    void expect(pid_t pid, std::function<void(int)> done);
    void forget(pid_t pid);

  private:
    void reap();
    std::map<pid_t, std::function<void(int)>> waiting_;
    Source source_;
};

class Child {
  public:
    struct Handlers {
        std::function<void(std::string_view)> line;     ///< of standard output, without the newline
        std::function<void(const std::string&)> broken; ///< end of output, a line too long, EPIPE
        std::function<void(int)> exited;                ///< wait status
    };
    static constexpr std::size_t max_line = 512;

    /// Starts argv[0]. `environment` holds "KEY=value" lines that are added to a fixed PATH and
    /// LANG.
    static Result<std::unique_ptr<Child>> spawn(sd_event* event, Reaper& reaper,
                                                const std::vector<std::string>& argv,
                                                const std::vector<std::string>& environment,
                                                Handlers handlers);
    /// Kills the whole group if it still runs; no handler is called any more.
    ~Child();

    /// Kills it and calls no handler any more; safe inside one of its own handlers, where deleting
    /// is not.
    void abandon();

    /// Queues bytes for standard input; flush() sends them, many requests in one system call.
    void write(std::string_view bytes) { out_.append(bytes); }
    /// Writes what the pipe takes now; the rest follows when it takes more.
    void flush();
    /// Reads what lies in the output pipe now (a child that has ended may have left it there).
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
    std::shared_ptr<bool> alive_ =
        std::make_shared<bool>(true); ///< false once destroyed, for handlers
};

} // namespace egress
