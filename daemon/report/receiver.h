// The report sockets: accepts, has lanes read the messages (lanes.h), keeps every user within its
// share.
//
// The loop itself never receives what a stranger sends: it watches the connections, and a lane
// reads those that are ready. If a message keeps its lane waiting, its connection is closed and its
// uid is not read for a while, longer with each repetition.
//
// Fairness: a connection reads one bounded batch per turn, turns go round; each uid but root has a
// bucket of reports per second. A uid whose bucket is empty is not read for a moment: its messages
// wait in its own sockets, and its next report fails with EAGAIN in its own process. No message
// that the kernel accepted is dropped. A uid with too many connections loses the one that was idle
// longest, after its messages were read.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <systemd/sd-event.h>

#include "daemon/base/loop.h"
#include "daemon/base/result.h"
#include "daemon/report/lanes.h"
#include "daemon/report/verify.h"
#include "lib/fd.h"

namespace egress {

class Receiver {
  public:
    struct Limits {
        std::size_t connections_per_uid = 256;
        std::size_t connections = 16384;
        double reports_per_second = 20000; ///< per uid other than root
    };
    /// The connections of a uid and how often it had to wait, for status.
    struct User {
        std::uint32_t uid = 0;
        std::size_t connections = 0;
        std::uint64_t paused = 0;
        std::size_t lanes_lost = 0; ///< given up because of it, and not gone yet
    };
    struct Counters {
        std::uint64_t taken = 0; ///< messages that were reports
        std::array<std::uint64_t, refusal_names.size()> refused{};
        std::uint64_t connections = 0;
        std::uint64_t closed_idle = 0;
    };

    /// Gets the reports of a turn, in the order in which each connection sent them. Their messages
    /// are valid during the call.
    using Sink = std::function<void(std::span<const Report>)>;

    Receiver(sd_event* event, const TrustedReporters& trusted, lane::Spawner spawner, Sink sink);
    Receiver(sd_event* event, const TrustedReporters& trusted, lane::Spawner spawner, Sink sink,
             Limits limits);
    ~Receiver();

    /// Makes a listening socket (mode 0666) at `path`; a stale socket is replaced, anything else
    /// that stands there is an error. Again for the same path: the socket was removed; the one
    /// before goes on until the next time, for who waits in it.
    Result<> listen(const std::string& path);
    /// Takes a non-blocking listening socket of the service manager's.
    Result<> adopt(Fd listener);

    /// The end: new reports fail at their sender, accepted ones are read. What waits in a service
    /// manager's socket is left to the next daemon.
    void drain();

    const Counters& counters() const { return counters_; }
    std::vector<User> users() const;
    const Lanes& lanes() const { return lanes_; }

  private:
    struct Uid;
    struct Connection;

    Result<> watch_listener(Fd listener, bool kept, std::string path = {});
    bool accept_one(int listener);
    void crowd(Connection& newest);
    void uncrowd();
    void want(Connection& connection);
    void dispatch(Uid& uid);
    void dispatch_hungry();
    void on_judged(const Lanes::Turn& turn, const lane::Board& board, Lanes::End end);
    void go_on(Connection& connection, const lane::Stretch& stretch);
    void stuck(Connection& connection, const lane::Board& board, std::uint32_t first);
    bool watch(Connection& connection);
    std::size_t take(const Connection& connection, const lane::Board& board, std::size_t first,
                     std::size_t count);
    void refuse(Refusal refusal, const Sender* sender);
    bool spend(Uid& uid, std::size_t reports);
    void pause(Uid& uid);
    void refill();
    void close(Connection& connection, bool ended);
    Uid& greediest();
    void make_room(Uid& uid);
    void forget_uids();

    sd_event* event_;
    const TrustedReporters& trusted_;
    Sink sink_;
    Limits limits_;
    Counters counters_;
    std::map<std::uint32_t, Uid> uids_;
    std::vector<Uid*> hungry_; ///< have connections to read, and found no lane
    std::list<std::unique_ptr<Connection>> connections_; ///< most recently active last
    std::vector<Report> found_;                          ///< reports of this turn
    std::vector<Fd> ended_; ///< connections of this turn that are to be closed
    struct Listener {
        Fd fd;
        Source source;
        bool kept = false; ///< the service manager keeps it, with what waits in it
        std::string path;  ///< empty: the service manager made it
    };
    std::vector<Listener> listeners_;
    Source refill_;
    bool crowded_ = false; ///< nothing is accepted until a lane has read something
    bool draining_ = false;
    Lanes lanes_;
};

} // namespace egress
