#include "daemon/receiver.h"

#include <algorithm>
#include <cstring>

#include <poll.h>
#include <sys/socket.h>

#include "daemon/listener.h"
#include "daemon/log.h"

namespace egress {

namespace {

constexpr unsigned batch = 32; // messages a connection may have read in one turn
constexpr unsigned one_shot =
    2; // a message and the end of the stream: reading that costs a slot each time
constexpr int accepts_per_turn = 256; // keeps the backlog short under a flood of one-shots
constexpr std::uint64_t refill_usec = 50'000;
// More than a socket's send buffer can hold: what a hostile sender adds meanwhile is not waited
// for.
constexpr int batches_queued = 1024;
constexpr std::size_t most_uids_remembered =
    1024; // without a connection; a user may have 65,536 uids
constexpr int accepts_at_end = 16384;

double now_seconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// SCM_MAX_FD: with room for all, the kernel never closes a stranger's descriptor in our name.
constexpr std::size_t most_fds = 253;

} // namespace

/// Descriptors and credentials that came with one message. Who makes it disposes of every fd.
struct Receiver::Ancillary {
    explicit Ancillary(msghdr& message) {
        for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
             part = CMSG_NXTHDR(&message, part)) {
            if (part->cmsg_level != SOL_SOCKET) {
                continue;
            }
            if (part->cmsg_type == SCM_CREDENTIALS && part->cmsg_len >= CMSG_LEN(sizeof(ucred))) {
                ucred from{};
                std::memcpy(&from, CMSG_DATA(part), sizeof from);
                sender = Sender{from.uid, from.pid};
                known = true;
            } else if (part->cmsg_type == SCM_RIGHTS) {
                count = std::min((part->cmsg_len - CMSG_LEN(0)) / sizeof(int), most_fds);
                std::memcpy(fds.data(), CMSG_DATA(part), count * sizeof(int));
            }
        }
    }
    std::array<int, most_fds> fds;
    std::size_t count = 0;
    Sender sender;
    bool known = false;
};

struct Receiver::Uid {
    std::uint32_t uid = 0;
    std::size_t connections = 0;
    std::uint64_t paused_times = 0;
    bool paused = false;
    double tokens = 0;
    double filled_at = 0;
};

struct Receiver::Connection {
    Receiver* receiver = nullptr;
    Fd fd;
    Uid* uid = nullptr;
    bool ended = false; ///< the peer is gone and everything was read
    Source source;
    std::list<std::unique_ptr<Connection>>::iterator place;
};

struct Receiver::Buffers {
    struct Message {
        // One byte more than the longest record, so that "too long" shows as itself.
        std::array<std::byte, wire::max_record + 1> bytes;
        // Room for credentials and two descriptors: the kernel drops what does not fit.
        alignas(cmsghdr)
            std::array<char, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(2 * sizeof(int))> control;
        iovec vector;
    };
    std::array<Message, batch> messages;
    std::array<mmsghdr, batch> headers;

    void reset(std::size_t most) {
        for (std::size_t i = 0; i < most; ++i) {
            Message& message = messages[i];
            message.vector = {message.bytes.data(), message.bytes.size()};
            headers[i] = {};
            headers[i].msg_hdr.msg_iov = &message.vector;
            headers[i].msg_hdr.msg_iovlen = 1;
            headers[i].msg_hdr.msg_control = message.control.data();
            headers[i].msg_hdr.msg_controllen = message.control.size();
        }
    }
};

Receiver::Receiver(sd_event* event, const TrustedReporters& trusted,
                   std::function<void(const Report&)> sink)
    : Receiver(event, trusted, std::move(sink), Limits{}) {}

Receiver::Receiver(sd_event* event, const TrustedReporters& trusted,
                   std::function<void(const Report&)> sink, Limits limits)
    : event_(event), trusted_(trusted), sink_(std::move(sink)), limits_(limits),
      buffers_(std::make_unique<Buffers>()) {}

Receiver::~Receiver() = default;

Result<> Receiver::listen(const std::string& path) {
    auto listener = make_listener(path, SOCK_SEQPACKET, 0666, std::nullopt);
    return listener ? watch_listener(std::move(*listener), false)
                    : std::unexpected(listener.error());
}

Result<> Receiver::adopt(Fd listener) {
    return watch_listener(std::move(listener), true);
}

Result<> Receiver::watch_listener(Fd listener, bool kept) {
    const int on = 1;
    // Accepted sockets inherit it, so that what was sent before accept() carries credentials too.
    if (setsockopt(listener.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) {
        return fail_errno("cannot ask for credentials on the report socket");
    }
    sd_event_source* source = nullptr;
    const int code = sd_event_add_io(event_, &source, listener.get(), EPOLLIN, on_listener, this);
    if (code < 0) {
        return fail_errno("cannot watch the report socket", -code);
    }
    listeners_.push_back({std::move(listener), Source(source), kept});
    return {};
}

int Receiver::on_listener(sd_event_source*, int fd, std::uint32_t, void* self) {
    auto* const receiver = static_cast<Receiver*>(self);
    for (int i = 0; i < accepts_per_turn && receiver->accept_one(fd); ++i) {
    }
    return 0;
}

bool Receiver::accept_one(int listener) {
    auto connection = std::make_unique<Connection>();
    connection->fd.reset(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection->fd) {
        const int code = errno; // before anything else can change it
        // The kernel looks for a number before it looks for a caller: without one there is no need.
        pollfd waiting{listener, POLLIN, 0};
        const bool short_of = code == EMFILE || code == ENFILE || code == ENOMEM;
        if (short_of && !connections_.empty() && poll(&waiting, 1, 0) > 0) {
            log::error("accept", "cannot accept a reporter: {}", std::strerror(code));
            make_room(greediest());
        }
        return code == ECONNABORTED || code == EINTR;
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (getsockopt(connection->fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return true;
    }
    counters_.connections += 1;
    if (uids_.size() >= most_uids_remembered) {
        std::erase_if(uids_, [](const auto& one) {
            return one.second.connections == 0 && !one.second.paused;
        });
    }
    Uid& uid = uids_[peer.uid];
    uid.uid = peer.uid;
    connection->receiver = this;
    connection->uid = &uid;
    if (connections_.size() >= limits_.connections ||
        uid.connections >= limits_.connections_per_uid) {
        make_room(uid.connections >= limits_.connections_per_uid ? uid : greediest());
    }
    uid.connections += 1;
    // A one-shot report has been sent and closed by now: it never needs to be watched.
    if (!uid.paused && !read_batch(*connection, one_shot)) {
        uid.connections -= 1;
        return true;
    }
    if (draining_) { // the loop is over: nothing can be watched any more
        uid.connections -= 1;
        shutdown(connection->fd.get(), SHUT_RD);
        read_queued(*connection);
        return true;
    }
    watch(std::move(connection));
    return true;
}

void Receiver::watch(std::unique_ptr<Connection> connection) {
    Connection& kept = *connection;
    sd_event_source* source = nullptr;
    const int code = sd_event_add_io(event_, &source, kept.fd.get(), EPOLLIN, on_connection, &kept);
    if (code < 0) {
        log::error("watch", "cannot watch a reporter's connection: {}", std::strerror(-code));
        kept.uid->connections -= 1;
        return;
    }
    kept.source.reset(source);
    if (kept.uid->paused) {
        sd_event_source_set_enabled(source, SD_EVENT_OFF);
    }
    kept.place = connections_.insert(connections_.end(), std::move(connection));
}

int Receiver::on_connection(sd_event_source*, int, std::uint32_t, void* data) {
    auto& connection = *static_cast<Connection*>(data);
    Receiver& receiver = *connection.receiver;
    if (!receiver.read_batch(connection, batch)) {
        receiver.close(connection);
        return 0;
    }
    receiver.connections_.splice(receiver.connections_.end(), receiver.connections_,
                                 connection.place);
    return 0;
}

/// Reads one batch. False: the peer is gone and everything that it sent was read.
bool Receiver::read_batch(Connection& connection, unsigned most) {
    buffers_->reset(most);
    const int got = recvmmsg(connection.fd.get(), buffers_->headers.data(), most,
                             MSG_DONTWAIT | MSG_CMSG_CLOEXEC, nullptr);
    if (got < 0) {
        // ECONNRESET is reported once; what was queued can still be read.
        return errno == EAGAIN || errno == EINTR || errno == ECONNRESET;
    }
    int messages = 0;
    while (messages < got && !connection.ended) {
        // A message of length 0 carries credentials, the end of the stream (every slot after it)
        // does not.
        const mmsghdr& header = buffers_->headers[static_cast<std::size_t>(messages)];
        connection.ended = header.msg_len == 0 && header.msg_hdr.msg_controllen == 0;
        messages += !connection.ended;
    }
    const bool within = spend(*connection.uid, static_cast<std::size_t>(messages));
    if (!within || closer_.full(connection.uid->uid)) {
        pause(*connection.uid);
    }
    for (int i = 0; i < messages; ++i) {
        mmsghdr& header = buffers_->headers[static_cast<std::size_t>(i)];
        handle(header.msg_hdr, header.msg_len, connection);
    }
    return !connection.ended;
}

void Receiver::handle(msghdr& message, std::size_t length, const Connection& connection) {
    const Ancillary came(message);
    const auto verdict = judge(message, length, came);
    int protocol = 0;
    if (const auto* refusal = std::get_if<Refusal>(&verdict)) {
        refuse(*refusal, came.known ? &came.sender : nullptr);
    } else {
        const Report& report = std::get<Report>(verdict);
        counters_.taken += 1;
        protocol = came.count == 1 ? report.protocol : 0;
        sink_(report);
    }
    for (std::size_t i = 0; i < came.count; ++i) {
        closer_.dispose(connection.uid->uid, came.fds[i], protocol);
    }
}

std::variant<Report, Refusal> Receiver::judge(const msghdr& message, std::size_t length,
                                              const Ancillary& came) const {
    if (!came.known) {
        return Refusal::no_credentials;
    }
    if (length > wire::max_record || (message.msg_flags & MSG_TRUNC) != 0) {
        return Refusal::too_long;
    }
    wire::Record record;
    const auto* const bytes = static_cast<const std::byte*>(message.msg_iov->iov_base);
    const auto fault = wire::decode(std::span(bytes, length), record);
    if (fault != wire::Fault::none) {
        return refusal_of(fault);
    }
    if (came.count > 1) {
        return Refusal::many_fds;
    }
    // Truncated without a descriptor: there was one, and we are out of numbers for it.
    if (came.count == 0 && (message.msg_flags & MSG_CTRUNC) != 0) {
        return Refusal::lost_fd;
    }
    return verify(record, came.count == 1 ? came.fds[0] : -1, came.sender, trusted_);
}

void Receiver::refuse(Refusal refusal, const Sender* sender) {
    const auto kind = static_cast<std::size_t>(refusal);
    counters_.refused[kind] += 1;
    if (sender != nullptr && log::threshold() >= log::Level::info) {
        log::info("report-refused", "refused a report from uid {} pid {}: {}", sender->uid,
                  sender->pid, refusal_names[kind]);
    }
}

bool Receiver::spend(Uid& uid, std::size_t reports) {
    if (uid.uid == 0) {
        return true;
    }
    const double now = now_seconds();
    const double fresh = (now - uid.filled_at) * limits_.reports_per_second;
    uid.tokens = std::min(uid.tokens + fresh, limits_.reports_per_second);
    uid.filled_at = now;
    // A debt is bounded, so that a user waits a second at most for what was read without asking.
    uid.tokens = std::max(uid.tokens - static_cast<double>(reports), -limits_.reports_per_second);
    return uid.tokens > 0;
}

void Receiver::pause(Uid& uid) {
    if (uid.paused || draining_) {
        return;
    }
    uid.paused = true;
    uid.paused_times += 1;
    for (const auto& connection : connections_) {
        if (connection->uid == &uid) {
            sd_event_source_set_enabled(connection->source.get(), SD_EVENT_OFF);
        }
    }
    if (!refill_) {
        sd_event_source* source = nullptr;
        if (sd_event_add_time_relative(event_, &source, CLOCK_MONOTONIC, refill_usec, 1000,
                                       on_refill, this) < 0) {
            uid.paused = false; // rather no quota than a user who is never read again
            return;
        }
        refill_.reset(source);
    }
    sd_event_source_set_time_relative(refill_.get(), refill_usec);
    sd_event_source_set_enabled(refill_.get(), SD_EVENT_ONESHOT);
}

int Receiver::on_refill(sd_event_source* source, std::uint64_t, void* data) {
    auto& receiver = *static_cast<Receiver*>(data);
    bool waiting = false;
    for (auto& [number, uid] : receiver.uids_) {
        if (uid.paused && receiver.spend(uid, 0) && !receiver.closer_.full(number)) {
            uid.paused = false;
        }
        waiting = waiting || uid.paused;
    }
    for (const auto& connection : receiver.connections_) {
        if (!connection->uid->paused) {
            sd_event_source_set_enabled(connection->source.get(), SD_EVENT_ON);
        }
    }
    if (waiting) {
        sd_event_source_set_time_relative(source, refill_usec);
        sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
    }
    return 0;
}

Receiver::Uid& Receiver::greediest() {
    const auto by_connections = [](const auto& a, const auto& b) {
        return a.second.connections < b.second.connections;
    };
    return std::ranges::max_element(uids_, by_connections)->second;
}

void Receiver::make_room(Uid& uid) {
    const auto oldest =
        std::ranges::find_if(connections_, [&](const auto& it) { return it->uid == &uid; });
    Connection* victim = oldest != connections_.end() ? oldest->get()
                         : connections_.empty()       ? nullptr
                                                      : connections_.front().get();
    if (victim == nullptr) {
        return;
    }
    // From here on its sends fail in its own process; what was taken before is read.
    shutdown(victim->fd.get(), SHUT_RD);
    read_queued(*victim);
    counters_.closed_idle += 1;
    log::warning("connections",
                 "uid {} holds {} connections to the report socket; closing its idlest", uid.uid,
                 uid.connections);
    close(*victim);
}

void Receiver::read_queued(Connection& connection) {
    for (int i = 0; i < batches_queued; ++i) {
        errno = 0;
        if (!read_batch(connection, batch) || errno == EAGAIN) {
            return;
        }
    }
}

void Receiver::close(Connection& connection) {
    connection.uid->connections -= 1;
    connection.source.reset();
    if (!connection.ended) { // unread messages may hold descriptors that are slow to close
        closer_.dispose_connection(connection.uid->uid, connection.fd.release());
    }
    connections_.erase(connection.place);
}

void Receiver::drain() {
    draining_ = true;
    for (const Listener& listener : listeners_) {
        if (listener.kept) {
            continue;
        }
        shutdown(listener.fd.get(), SHUT_RD);
        for (int i = 0; i < accepts_at_end && accept_one(listener.fd.get()); ++i) {
        }
    }
    for (const auto& connection : connections_) {
        shutdown(connection->fd.get(), SHUT_RD);
        read_queued(*connection);
    }
}

std::vector<Receiver::User> Receiver::users() const {
    std::vector<User> users;
    for (const auto& [number, uid] : uids_) {
        users.push_back({number, uid.connections, uid.paused_times});
    }
    return users;
}

} // namespace egress
