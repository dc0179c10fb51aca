// The control socket: HTTP/1.1 and JSON on the daemon's loop.
//
// This file handles HTTP: it checks the peer, collects a bounded body and sends the answer of the
// handler. routes.h has the routes; door.h admits connections.
//
// A connection has a time limit for completing its request and for taking each piece of an answer.
// While it waits for the daemon or for events it has none. Every connection counts towards its
// user's share.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <systemd/sd-event.h>

#include "daemon/base/clock.h"
#include "daemon/base/loop.h"
#include "daemon/base/result.h"
#include "daemon/control/door.h"
#include "daemon/control/shares.h"
#include "lib/fd.h"

struct MHD_Daemon;
struct MHD_Connection;

namespace egress {

struct Request {
    std::string method;
    std::string path;
    std::vector<std::pair<std::string, std::string>> query; ///< arguments, as received
    std::string body;
    std::uint32_t uid = 0; ///< of the peer, from the kernel
    std::uint32_t gid = 0; ///< the same
    std::uint32_t pid = 0; ///< the same; 0: it is in a pid namespace invisible to the daemon

    /// The first value of a query argument; nullopt: absent.
    std::optional<std::string> argument(std::string_view name) const;
};

struct Response {
    unsigned status = 200;
    std::string body;
    const char* type = "application/json";
};

/// Makes a body piece by piece: appends to `out`, returns false after the last piece.
using Producer = std::function<bool(std::string& out)>;

/// Has the producer of a feed called again; no effect if the peer is gone.
using Wake = std::function<void()>;

/// The handler calls exactly one of these, once, now or later.
struct Answer {
    std::function<void(Response)> send;
    std::function<void(Producer)> stream; ///< 200, application/json
    /// 200, application/x-ndjson, until the peer or the daemon ends. A producer that appends
    /// nothing has no data yet. It is destroyed when the peer leaves.
    std::function<Wake(Producer)> feed;
};

class Control {
  public:
    static constexpr Shares::Limits limits = {128, 24, 32};
    static constexpr Seconds request_seconds = 10; ///< for the head of a request and for its body
    static constexpr Seconds piece_seconds = 30; ///< for a piece of an answer, and between requests

    using Handler = std::function<void(const Request&, Answer)>;
    /// Whether a peer must not ask anything. `arrives`: it has just connected.
    using Outcast = std::function<bool(std::uint32_t uid, std::uint32_t pid, bool arrives)>;

    /// Takes a listening stream socket.
    static Result<std::unique_ptr<Control>> start(sd_event* event, Fd listener, const Clock& clock,
                                                  Handler handler);
    ~Control();

    /// Makes the socket: 0660, group "egress" if that group exists.
    static Result<Fd> listen(const std::string& path);
    /// Asked of each peer from now on.
    void keep_out(Outcast outcast) { outcast_ = std::move(outcast); }
    /// Runs pending work; call it at the end of every turn of the loop.
    void pump();
    /// Call once a second: closes connections that exceed their time limits.
    void tick();

    const Shares& shares() const { return shares_; }
    /// Makes the socket at `path` anew, and listens there instead.
    Result<> listen_again(const std::string& path);
    std::uint64_t turned_away() const { return door_->turned_away(); }
    std::uint64_t timed_out() const { return timed_out_; }

  private:
    struct Exchange;
    /// An open connection.
    struct Peer {
        int fd = -1;
        std::uint32_t uid = 0;
        Moment until = never;
        bool requesting = true; ///< no part of an answer was sent
        bool outcast = false;   ///< since it arrived
    };
    Control(const Clock& clock, Handler handler) : clock_(clock), handler_(std::move(handler)) {}
    Result<> start_http();
    void admit(Fd connection);
    Peer* arrive(MHD_Connection* connection);
    void depart(Peer* peer);
    void give_time(MHD_Connection* connection, Seconds seconds, bool requesting);
    int handle(MHD_Connection* connection, const char* path, const char* method, const char* data,
               std::size_t* size, void** state);
    void dispatch(MHD_Connection* connection, Exchange& exchange);
    static int reply(MHD_Connection* connection, Exchange& exchange);
    static std::ptrdiff_t produce(void* exchange, std::uint64_t, char* out, std::size_t room);
    Answer answer_for(Exchange& exchange);
    void take_body(Exchange& exchange, std::string_view data);
    void drop_body(Exchange& exchange);
    void suspend(Exchange& exchange);
    void resume(Exchange& exchange);
    void watch_peer(Exchange& exchange);
    bool allowed(MHD_Connection* connection, Request& request) const;
    bool is_outcast(MHD_Connection* connection, const Request& request) const;

    const Clock& clock_;
    Handler handler_;
    Outcast outcast_;
    sd_event* event_ = nullptr;
    MHD_Daemon* http_ = nullptr;
    Shares shares_{limits};
    std::set<Peer*> peers_; ///< at most limits.most
    std::uint64_t timed_out_ = 0;
    std::size_t bodies_ = 0; ///< bytes of the bodies of all requests
    std::unique_ptr<Door> door_;
    Source ready_;
    Source timeout_;
    bool work_ = false;
    bool handled_ = false; ///< a request went to the handler since pump() began
    bool stopping_ = false;
    std::set<MHD_Connection*> suspended_; ///< connections that await their answer
    std::optional<gid_t> group_;          ///< "egress"; nullopt: no such group
};

} // namespace egress
