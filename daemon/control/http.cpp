#include "daemon/control/http.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <grp.h>
#include <microhttpd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/base/listener.h"
#include "daemon/base/log.h"

namespace egress {

std::optional<std::string> Request::argument(std::string_view name) const {
    const auto found = std::ranges::find(query, name, &decltype(query)::value_type::first);
    return found == query.end() ? std::nullopt : std::optional(found->second);
}

namespace {

constexpr std::size_t most_body = 1 << 20;
constexpr std::size_t most_list = 16 << 20;   ///< of a route that takes lists
constexpr std::size_t most_bodies = 64 << 20; ///< of all requests together

std::size_t most_of(const Request& request) {
    return request.path == "/v1/blocks" ? most_list : most_body;
}
constexpr std::size_t piece = 64 << 10;

std::optional<gid_t> egress_group() {
    std::vector<char> buffer(4096);
    group entry{};
    group* found = nullptr;
    getgrnam_r("egress", &entry, buffer.data(), buffer.size(), &found);
    return found != nullptr ? std::optional(entry.gr_gid) : std::nullopt;
}

/// True if the peer is in the group, by its credentials at connect().
bool in_group(int fd, gid_t group, gid_t primary) {
    if (primary == group) {
        return true;
    }
    std::vector<gid_t> groups(256);
    auto length = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length) != 0) {
        return false;
    }
    groups.resize(length / sizeof(gid_t));
    for (const gid_t one : groups) {
        if (one == group) {
            return true;
        }
    }
    return false;
}

} // namespace

/// One request and its answer. Lives until MHD completes the request.
struct Control::Exchange {
    Control* control = nullptr;
    MHD_Connection* connection = nullptr;
    Request request;
    std::optional<Response> refused; // because of its body
    bool dispatched = false;
    bool suspended = false;
    std::optional<Response> response;
    Producer producer;
    std::string spill; // produced bytes that the socket has not taken
    std::size_t spilled = 0;
    bool finished = false;
    bool feeding = false;            // the producer may have no data yet
    Source hangup;                   // of a feed's peer: MHD does not poll it while it is suspended
    std::shared_ptr<Exchange*> self; // empty pointer inside: the client is gone
};

Result<Fd> Control::listen(const std::string& path) {
    return make_listener(path, SOCK_STREAM, 0660, egress_group());
}

Result<> Control::start_http() {
    const auto access = [](void* self, MHD_Connection* connection, const char* path,
                           const char* method, const char*, const char* data, std::size_t* size,
                           void** state) {
        return static_cast<MHD_Result>(
            static_cast<Control*>(self)->handle(connection, path, method, data, size, state));
    };
    const auto completed = [](void* self, MHD_Connection* connection, void** state,
                              MHD_RequestTerminationCode) {
        auto* const exchange = static_cast<Exchange*>(*state);
        if (exchange != nullptr) {
            if (exchange->self) {
                *exchange->self = nullptr;
            }
            static_cast<Control*>(self)->drop_body(*exchange);
            delete exchange;
            *state = nullptr;
        }
        static_cast<Control*>(self)->give_time(connection, piece_seconds, true);
    };
    const auto came_or_went = [](void* self, MHD_Connection* connection, void** peer,
                                 MHD_ConnectionNotificationCode what) {
        auto* const control = static_cast<Control*>(self);
        if (what == MHD_CONNECTION_NOTIFY_STARTED) {
            *peer = control->arrive(connection);
        } else {
            control->depart(static_cast<Peer*>(std::exchange(*peer, nullptr)));
        }
    };
    http_ = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET, 0, nullptr, nullptr,
        +access, this, MHD_OPTION_CONNECTION_LIMIT, limits.most, MHD_OPTION_CONNECTION_TIMEOUT, 0U,
        MHD_OPTION_NOTIFY_COMPLETED, static_cast<MHD_RequestCompletedCallback>(+completed), this,
        MHD_OPTION_NOTIFY_CONNECTION, static_cast<MHD_NotifyConnectionCallback>(+came_or_went),
        this, MHD_OPTION_END);
    return http_ == nullptr ? Result<>(fail("cannot start the control server")) : Result<>();
}

Result<std::unique_ptr<Control>> Control::start(sd_event* event, Fd listener, const Clock& clock,
                                                Handler handler) {
    std::unique_ptr<Control> control(new Control(clock, std::move(handler)));
    control->event_ = event;
    // Once: the look-up may use the network, and the loop never waits.
    control->group_ = egress_group();
    if (auto started = control->start_http(); !started) {
        return std::unexpected(started.error());
    }
    auto door =
        Door::open(event, std::move(listener), control->shares_,
                   [self = control.get()](Fd connection) { self->admit(std::move(connection)); });
    if (!door) {
        return std::unexpected(door.error());
    }
    control->door_ = std::move(*door);
    const MHD_DaemonInfo* const info =
        MHD_get_daemon_info(control->http_, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == nullptr) {
        return fail("cannot watch the control server");
    }
    const auto run = [raw = control.get()] {
        raw->work_ = true;
        raw->pump();
    };
    auto ready = watch(event, info->epoll_fd, EPOLLIN, [run](std::uint32_t) { run(); });
    auto timeout = call_after(event, 1'000'000, run, 1);
    if (!ready || !timeout) {
        return std::unexpected(ready ? timeout.error() : ready.error());
    }
    control->ready_ = std::move(*ready);
    control->timeout_ = std::move(*timeout);
    return control;
}

Control::~Control() {
    stopping_ = true;
    door_.reset();
    ready_.reset();
    timeout_.reset();
    if (http_ != nullptr) {
        // MHD aborts the process if a connection is suspended when it stops.
        for (MHD_Connection* const connection : std::exchange(suspended_, {})) {
            MHD_resume_connection(connection);
        }
        // MHD needs several rounds to end a stream: the last piece, the end mark, the close.
        for (int round = 0; round < 4; ++round) {
            MHD_run(http_);
        }
        MHD_stop_daemon(http_);
    }
}

void Control::pump() {
    if (!work_) {
        return;
    }
    work_ = false;
    // A kept connection may hold its next request already, which MHD takes in the next round.
    constexpr int most_rounds = 8;
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    bool waits = true;
    handled_ = false;
    for (int round = 0; round < most_rounds && waits && wait_ms == 0 && !handled_; ++round) {
        MHD_run(http_);
        waits = MHD_get_timeout(http_, &wait_ms) == MHD_YES;
    }
    if (handled_) { // at the end of a turn: what the request changed waits for the next turn's end
        waits = true;
        wait_ms = 0;
    }
    if (waits) {
        sd_event_source_set_time_relative(timeout_.get(), wait_ms * 1000);
        sd_event_source_set_enabled(timeout_.get(), SD_EVENT_ONESHOT);
    }
}

void Control::admit(Fd connection) {
    sockaddr_un unnamed{};
    unnamed.sun_family = AF_UNIX;
    // MHD closes the connection, even on failure.
    MHD_add_connection(http_, connection.release(), reinterpret_cast<sockaddr*>(&unnamed),
                       sizeof unnamed);
    work_ = true;
    pump();
}

Control::Peer* Control::arrive(MHD_Connection* connection) {
    const MHD_ConnectionInfo* const info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    auto peer = std::make_unique<Peer>();
    peer->fd = info->connect_fd;
    ucred from{};
    socklen_t length = sizeof from;
    getsockopt(peer->fd, SOL_SOCKET, SO_PEERCRED, &from, &length); // the door did this, too
    peer->uid = from.uid;
    peer->outcast = outcast_ && outcast_(from.uid, static_cast<std::uint32_t>(from.pid), true);
    peer->until = clock_.now() + request_seconds;
    shares_.enter(peer->uid);
    return *peers_.insert(peer.release()).first;
}

void Control::depart(Peer* peer) {
    if (peer != nullptr) {
        shares_.leave(peer->uid);
        peers_.erase(peer);
        delete peer;
    }
}

void Control::give_time(MHD_Connection* connection, Seconds seconds, bool requesting) {
    const MHD_ConnectionInfo* const info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (info != nullptr && info->socket_context != nullptr) {
        auto& peer = *static_cast<Peer*>(info->socket_context);
        peer.until = after(clock_.now(), seconds);
        peer.requesting = requesting;
    }
}

void Control::tick() {
    door_->tick();
    for (Peer* const peer : peers_) {
        if (clock_.now() <= peer->until) {
            continue;
        }
        ++timed_out_;
        log::info("control-slow", "closed a connection of uid {} to the control socket: {}",
                  peer->uid,
                  peer->requesting ? "its request was not complete in time"
                                   : "it did not take its answer");
        if (peer->requesting) {
            const auto answer =
                last_words("408 Request Timeout", "the request was not complete in time");
            [[maybe_unused]] const auto sent =
                send(peer->fd, answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        shutdown(peer->fd, SHUT_RDWR); // MHD notices and closes it
        peer->until = never;
    }
}

bool Control::allowed(MHD_Connection* connection, Request& request) const {
    const MHD_ConnectionInfo* const info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    ucred peer{};
    socklen_t length = sizeof peer;
    if (info == nullptr ||
        getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return false;
    }
    request.uid = peer.uid;
    request.gid = peer.gid;
    request.pid = static_cast<std::uint32_t>(peer.pid);
    return peer.uid == 0 || peer.uid == geteuid() ||
           (group_ && in_group(info->connect_fd, *group_, peer.gid));
}

bool Control::is_outcast(MHD_Connection* connection, const Request& request) const {
    const int fd =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    return outcast_ &&
           (std::ranges::any_of(
                peers_, [fd](const Peer* peer) { return peer->fd == fd && peer->outcast; }) ||
            outcast_(request.uid, request.pid, false));
}

Result<> Control::listen_again(const std::string& path) {
    auto listener = listen(path);
    return listener ? door_->move_to(std::move(*listener)) : std::unexpected(listener.error());
}

int Control::handle(MHD_Connection* connection, const char* path, const char* method,
                    const char* data, std::size_t* size, void** state) {
    if (*state == nullptr) {
        auto exchange = std::make_unique<Exchange>();
        exchange->control = this;
        exchange->connection = connection;
        exchange->request.path = path;
        exchange->request.method = method;
        const auto keep = [](void* query, MHD_ValueKind, const char* name, const char* value) {
            static_cast<decltype(Request::query)*>(query)->emplace_back(
                name, value == nullptr ? "" : value);
            return MHD_YES;
        };
        MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, +keep,
                                  &exchange->request.query);
        *state = exchange.release();
        give_time(connection, request_seconds, true);
        return MHD_YES;
    }
    auto& exchange = *static_cast<Exchange*>(*state);
    if (*size > 0) {
        take_body(exchange, {data, *size});
        *size = 0;
        return MHD_YES;
    }
    if (!exchange.dispatched) {
        exchange.dispatched = true;
        give_time(connection, forever, false);
        dispatch(connection, exchange);
    }
    if (exchange.response || exchange.producer) {
        return reply(connection, exchange);
    }
    if (stopping_) {
        exchange.response = Response{503, R"({"error":"egressd is stopping"})"};
        return reply(connection, exchange);
    }
    suspend(exchange);
    return MHD_YES;
}

void Control::take_body(Exchange& exchange, std::string_view data) {
    auto& body = exchange.request.body;
    const auto most = most_of(exchange.request);
    if (exchange.refused) {
        return;
    }
    if (body.size() + data.size() > most) {
        exchange.refused = Response{
            413, fmt::format(R"({{"error":"the request's body is over {} MiB"}})", most >> 20)};
    } else if (bodies_ + data.size() > most_bodies) {
        exchange.refused = Response{
            503, R"({"error":"other requests' bodies take the room; try again in a moment"})"};
    } else {
        body.append(data);
        bodies_ += data.size();
        return;
    }
    drop_body(exchange);
}

void Control::drop_body(Exchange& exchange) {
    bodies_ -= exchange.request.body.size();
    exchange.request.body = {};
}

void Control::suspend(Exchange& exchange) {
    exchange.suspended = true;
    suspended_.insert(exchange.connection);
    MHD_suspend_connection(exchange.connection);
}

void Control::resume(Exchange& exchange) {
    if (exchange.suspended) {
        exchange.suspended = false;
        suspended_.erase(exchange.connection);
        MHD_resume_connection(exchange.connection);
        work_ = true;
    }
}

void Control::watch_peer(Exchange& exchange) {
    const MHD_ConnectionInfo* const info =
        MHD_get_connection_info(exchange.connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info == nullptr) {
        return;
    }
    // No events requested: epoll always reports a hang-up.
    exchange.hangup = watch(event_, info->connect_fd, 0, [&exchange](std::uint32_t) {
                          sd_event_source_set_enabled(exchange.hangup.get(), SD_EVENT_OFF);
                          exchange.finished = true;
                          exchange.control->resume(exchange);
                      }).value_or(nullptr);
}

void Control::dispatch(MHD_Connection* connection, Exchange& exchange) {
    if (!allowed(connection, exchange.request)) {
        log::warning("control-refused", "refused uid {} on the control socket",
                     exchange.request.uid);
        exchange.response = Response{403, R"({"error":"you must be root or in the group egress"})"};
        return;
    }
    if (is_outcast(connection, exchange.request)) {
        log::warning("control-refused", "refused a process of uid {} that is in a run, or may be",
                     exchange.request.uid);
        exchange.response = Response{
            403, R"({"error":"a process of a run may not ask egressd, and runs do not nest"})"};
        return;
    }
    if (exchange.refused) {
        exchange.response = std::move(exchange.refused);
        return;
    }
    handled_ = true;
    handler_(exchange.request, answer_for(exchange));
    drop_body(exchange);
}

Answer Control::answer_for(Exchange& exchange) {
    exchange.self = std::make_shared<Exchange*>(&exchange);
    Answer answer;
    answer.send = [this, self = exchange.self](Response response) {
        if (*self != nullptr) {
            (*self)->response = std::move(response);
            resume(**self);
        }
    };
    answer.stream = [this, self = exchange.self](Producer producer) {
        if (*self != nullptr) {
            (*self)->producer = std::move(producer);
            resume(**self);
        }
    };
    answer.feed = [this, self = exchange.self](Producer producer) -> Wake {
        if (*self != nullptr) {
            (*self)->producer = std::move(producer);
            (*self)->feeding = true;
            watch_peer(**self);
            resume(**self);
        }
        return [this, self] {
            if (*self != nullptr) {
                resume(**self);
            }
        };
    };
    return answer;
}

std::ptrdiff_t Control::produce(void* state, std::uint64_t, char* out, std::size_t room) {
    auto& from = *static_cast<Exchange*>(state);
    while (from.spilled == from.spill.size()) {
        if (from.finished) {
            return MHD_CONTENT_READER_END_OF_STREAM;
        }
        from.spill.clear();
        from.spilled = 0;
        if (!from.feeding) {
            from.control->give_time(from.connection, piece_seconds, false);
        }
        from.finished = !from.producer(from.spill);
        if (from.feeding && from.spill.empty() && !from.finished) {
            if (from.control->stopping_) {
                return MHD_CONTENT_READER_END_OF_STREAM;
            }
            from.control->suspend(from);
            return 0;
        }
    }
    const std::size_t taken = std::min(room, from.spill.size() - from.spilled);
    std::memcpy(out, from.spill.data() + from.spilled, taken);
    from.spilled += taken;
    return static_cast<std::ptrdiff_t>(taken);
}

int Control::reply(MHD_Connection* connection, Exchange& exchange) {
    if (!exchange.feeding) {
        exchange.control->give_time(connection, piece_seconds, false);
    }
    MHD_Response* response = nullptr;
    unsigned status = 200;
    const char* type = "application/json";
    if (exchange.response) {
        status = exchange.response->status;
        type = exchange.response->type;
        response = MHD_create_response_from_buffer(
            exchange.response->body.size(), exchange.response->body.data(), MHD_RESPMEM_MUST_COPY);
    } else {
        type = exchange.feeding ? "application/x-ndjson" : type;
        response =
            MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, piece, produce, &exchange, nullptr);
    }
    if (response == nullptr) {
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    const int queued = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return queued;
}

} // namespace egress
