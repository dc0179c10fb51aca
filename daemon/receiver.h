// The report sockets: accept, read many messages at a wake-up, keep every user within its share.
//
// Fairness: a connection reads one bounded batch per turn, turns go round; each uid but root has a
// bucket of reports per second. A uid whose bucket is empty is not read for a moment: its messages
// wait in its own sockets, and its next report fails with EAGAIN in its own process. Nothing that
// was accepted by the kernel is thrown away. A uid that holds too many connections loses the one
// that was idle longest, after what it had sent was read.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <systemd/sd-event.h>

#include "daemon/closer.h"
#include "daemon/report.h"
#include "daemon/result.h"
#include "daemon/unref.h"
#include "lib/fd.h"

namespace egress {

class Receiver {
  public:
    struct Limits {
        std::size_t connections_per_uid = 256;
        std::size_t connections = 16384;
        double reports_per_second = 20000; ///< per uid other than root
    };
    /// What a uid holds and how often it had to wait, for status.
    struct User {
        std::uint32_t uid = 0;
        std::size_t connections = 0;
        std::uint64_t paused = 0;
    };
    struct Counters {
        std::uint64_t taken = 0; ///< messages that were reports
        std::array<std::uint64_t, refusal_names.size()> refused{};
        std::uint64_t connections = 0;
        std::uint64_t closed_idle = 0;
    };

    Receiver(sd_event* event, const TrustedReporters& trusted,
             std::function<void(const Report&)> sink);
    Receiver(sd_event* event, const TrustedReporters& trusted,
             std::function<void(const Report&)> sink, Limits limits);
    ~Receiver();

    /// Makes a listening socket (mode 0666) at `path`; a stale socket is replaced, anything else
    /// that stands there is an error.
    Result<> listen(const std::string& path);
    /// Takes a non-blocking listening socket of the service manager's.
    Result<> adopt(Fd listener);

    /// The end: what comes from now on fails at its sender, what was taken is read. What waits in a
    /// service manager's socket is left to the next daemon.
    void drain();

    const Counters& counters() const { return counters_; }
    std::vector<User> users() const;

  private:
    struct Uid;
    struct Connection;
    struct Buffers;
    struct Ancillary;

    static int on_listener(sd_event_source*, int fd, std::uint32_t, void* self);
    static int on_connection(sd_event_source*, int fd, std::uint32_t, void* connection);
    static int on_refill(sd_event_source*, std::uint64_t, void* self);

    Result<> watch_listener(Fd listener, bool kept);
    bool accept_one(int listener);
    void watch(std::unique_ptr<Connection> connection);
    bool read_batch(Connection& connection, unsigned most);
    void read_queued(Connection& connection);
    void handle(msghdr& message, std::size_t length, const Connection& connection);
    std::variant<Report, Refusal> judge(const msghdr& message, std::size_t length,
                                        const Ancillary& came) const;
    void refuse(Refusal refusal, const Sender* sender);
    bool spend(Uid& uid, std::size_t reports);
    void pause(Uid& uid);
    void close(Connection& connection);
    Uid& greediest();
    void make_room(Uid& uid);

    sd_event* event_;
    const TrustedReporters& trusted_;
    std::function<void(const Report&)> sink_;
    Limits limits_;
    Closer closer_;
    Counters counters_;
    std::map<std::uint32_t, Uid> uids_;
    std::list<std::unique_ptr<Connection>> connections_; ///< most recently active last
    struct Listener {
        Fd fd;
        Source source;
        bool kept = false; ///< by the service manager, together with what waits in it
    };
    std::vector<Listener> listeners_;
    std::unique_ptr<Buffers> buffers_;
    Source refill_;
    bool draining_ = false;
};

} // namespace egress
