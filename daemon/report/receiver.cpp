#include "daemon/report/receiver.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <poll.h>
#include <sys/socket.h>

#include "daemon/base/listener.h"
#include "daemon/base/log.h"
#include "daemon/report/peer_cgroup.h"

namespace egress {

namespace {

constexpr std::uint8_t batch = 32; // messages of a connection in one turn
constexpr std::uint8_t one_shot =
    2; // a message and the end of the stream: reading that costs a slot each time
constexpr int accepts_per_turn = 256; // keeps the backlog short under a flood of one-shots
constexpr std::uint64_t refill_usec = 50'000;
constexpr std::size_t most_uids_remembered =
    1024; // without a connection; a user may have 65,536 uids
constexpr int accepts_at_end = 16384;
constexpr double drain_seconds = 5;
constexpr std::size_t most_fresh = 256;  // connections of a uid that wait for their first turn
constexpr std::size_t most_closing = 64; // connections of a uid that are read to their end
constexpr double longest_bar = 60;       // seconds that a uid is not read after a lane was lost
constexpr unsigned most_strikes = 6;

double now_seconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

} // namespace

struct Receiver::Uid {
    std::uint32_t uid = 0;
    std::size_t connections = 0;
    std::size_t watched = 0; // of these, those that were read once and stay
    std::size_t fresh = 0;   // those that were not read yet
    std::size_t closing = 0;
    std::uint64_t paused_times = 0;
    bool paused = false;
    bool hungry = false;
    double tokens = 0;
    double filled_at = 0;
    double barred_until = 0;
    unsigned strikes = 0; // lanes lost because of it
    std::deque<Connection*> ready;

    bool barred() const { return barred_until != 0; }
};

struct Receiver::Connection {
    Fd fd;
    Uid* uid = nullptr;
    bool fresh = true;    // never read
    bool watched = false; // counts as one that its uid holds
    bool queued = false;  // in its uid's `ready`
    bool reading = false; // by a lane, just now
    bool closing = false; // nothing more can be sent; goes when it is read to its end
    Source source;
    std::list<std::unique_ptr<Connection>>::iterator place;
};

Receiver::Receiver(sd_event* event, const TrustedReporters& trusted, lane::Spawner spawner,
                   Sink sink)
    : Receiver(event, trusted, std::move(spawner), std::move(sink), Limits{}) {}

Receiver::Receiver(sd_event* event, const TrustedReporters& trusted, lane::Spawner spawner,
                   Sink sink, Limits limits)
    : event_(event), trusted_(trusted), sink_(std::move(sink)), limits_(limits),
      lanes_(
          event, std::move(spawner),
          [this](const Lanes::Turn& turn, const lane::Board& board, Lanes::End end) {
              on_judged(turn, board, end);
          },
          [this] {
              uncrowd();
              dispatch_hungry();
          }) {}

Receiver::~Receiver() {
    for (const auto& connection : connections_) {
        connection->source.reset();
        shutdown(connection->fd.get(), SHUT_RD);
        lanes_.discard(std::move(connection->fd)); // unread messages may be slow to close
    }
}

Result<> Receiver::listen(const std::string& path) {
    auto listener = make_listener(path, SOCK_SEQPACKET, 0666, std::nullopt);
    if (!listener) {
        return std::unexpected(listener.error());
    }
    constexpr std::ptrdiff_t most = 2;
    const auto same = [&](const Listener& each) { return each.path == path; };
    if (std::ranges::count_if(listeners_, same) >= most) {
        listeners_.erase(std::ranges::find_if(listeners_, same));
    }
    return watch_listener(std::move(*listener), false, path);
}

Result<> Receiver::adopt(Fd listener) {
    return watch_listener(std::move(listener), true);
}

Result<> Receiver::watch_listener(Fd listener, bool kept, std::string path) {
    const int on = 1;
    // Accepted sockets inherit it, so that what was sent before accept() carries credentials too.
    if (setsockopt(listener.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0) {
        return fail_errno("cannot ask for credentials on the report socket");
    }
    auto source =
        egress::watch(event_, listener.get(), EPOLLIN, [this, fd = listener.get()](std::uint32_t) {
            for (int i = 0; i < accepts_per_turn && !crowded_ && accept_one(fd); ++i) {
            }
            dispatch_hungry();
        });
    if (!source) {
        return std::unexpected(source.error());
    }
    listeners_.push_back({std::move(listener), std::move(*source), kept, std::move(path)});
    return {};
}

bool Receiver::accept_one(int listener) {
    Fd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
        const int code = errno; // before anything else can change it
        // The kernel looks for a number before it looks for a caller: without one there is no need.
        pollfd waiting{listener, POLLIN, 0};
        const bool short_of = code == EMFILE || code == ENFILE || code == ENOMEM;
        const bool leaving =
            std::ranges::any_of(uids_, [](const auto& one) { return one.second.closing != 0; });
        if (short_of && !leaving && !connections_.empty() && poll(&waiting, 1, 0) > 0) {
            log::error("accept", "cannot accept a reporter: {}", std::strerror(code));
            make_room(greediest());
        }
        return code == ECONNABORTED || code == EINTR;
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        lanes_.discard(std::move(fd));
        return true;
    }
    counters_.connections += 1;
    forget_uids();
    Uid& uid = uids_[peer.uid];
    uid.uid = peer.uid;
    auto connection = std::make_unique<Connection>();
    connection->fd = std::move(fd);
    connection->uid = &uid;
    if (connections_.size() >= limits_.connections) {
        make_room(greediest());
    }
    uid.connections += 1;
    uid.fresh += 1;
    Connection& kept = *connection;
    kept.place = connections_.insert(connections_.end(), std::move(connection));
    if (draining_) {
        shutdown(kept.fd.get(), SHUT_RD);
    }
    want(kept); // a one-shot report has been sent and closed by now: it never needs to be watched
    if (uid.fresh > most_fresh && !draining_) {
        crowd(kept);
    }
    return true;
}

/// More connections of one uid wait for their first turn than may. Where they are being read, the
/// listener waits for that; where they are not, that is the uid's own fault, and this one goes.
void Receiver::crowd(Connection& newest) {
    Uid& uid = *newest.uid;
    if (uid.paused && !uid.barred()) { // read in spite of its quota, and nothing more after it
        shutdown(newest.fd.get(), SHUT_RD);
        newest.closing = true;
        uid.closing += 1;
    }
    dispatch(uid);
    if (uid.barred() || !lanes_.moves(uid.uid)) {
        if (!newest.reading) {
            close(newest, false);
        }
        return;
    }
    crowded_ = true;
    for (const Listener& listener : listeners_) {
        sd_event_source_set_enabled(listener.source.get(), SD_EVENT_OFF);
    }
}

void Receiver::forget_uids() {
    if (uids_.size() >= most_uids_remembered) {
        std::erase_if(uids_, [](const auto& one) {
            return one.second.connections == 0 && !one.second.paused && !one.second.hungry;
        });
    }
}

void Receiver::uncrowd() {
    if (std::exchange(crowded_, false)) {
        for (const Listener& listener : listeners_) {
            sd_event_source_set_enabled(listener.source.get(), SD_EVENT_ON);
        }
    }
}

/// There is something to read. Its uid's turn comes as soon as there is a lane for it.
void Receiver::want(Connection& connection) {
    Uid& uid = *connection.uid;
    if (!connection.queued && !connection.reading) {
        connection.queued = true;
        uid.ready.push_back(&connection);
    }
    if (!uid.hungry) {
        uid.hungry = true;
        hungry_.push_back(&uid);
    }
}

/// Hands a lane as many of the uid's connections as one turn holds.
void Receiver::dispatch(Uid& uid) {
    if (uid.ready.empty() || uid.barred()) {
        return;
    }
    Lanes::Turn turn{uid.uid, uid.uid == 0 || trusted_.is_known(uid.uid), {}};
    std::array<int, lane::connections> fds{};
    std::array<std::uint8_t, lane::connections> most{};
    std::size_t slots = 0;
    const bool all = !uid.paused || draining_;
    for (Connection* const connection : uid.ready) {
        const std::uint8_t wanted = connection->fresh ? one_shot : batch;
        const std::size_t at = turn.connections.size();
        if (at == fds.size() || slots + wanted > lane::slots) {
            break;
        }
        if (all || connection->closing) {
            fds[at] = connection->fd.get();
            most[at] = wanted;
            slots += wanted;
            turn.connections.push_back(connection);
        }
    }
    const std::size_t count = turn.connections.size();
    const auto chosen = turn.connections;
    if (count == 0 ||
        !lanes_.begin(std::move(turn), std::span(fds).first(count), std::span(most).first(count))) {
        return;
    }
    for (void* const one : chosen) {
        auto* const connection = static_cast<Connection*>(one);
        connection->queued = false;
        connection->reading = true;
    }
    std::erase_if(uid.ready, [](const Connection* one) { return !one->queued; });
}

/// Those that have lanes reserved come first.
void Receiver::dispatch_hungry() {
    for (const bool known : {true, false}) {
        for (Uid* const uid : hungry_) {
            if ((uid->uid == 0 || trusted_.is_known(uid->uid)) == known) {
                dispatch(*uid);
            }
        }
    }
    std::erase_if(hungry_, [](Uid* uid) {
        uid->hungry = !uid->ready.empty();
        return !uid->hungry;
    });
}

void Receiver::on_judged(const Lanes::Turn& turn, const lane::Board& board, Lanes::End end) {
    auto& uid = *static_cast<Connection*>(turn.connections.front())->uid;
    const std::size_t done =
        end == Lanes::End::judged ? turn.connections.size() : std::size_t{board.done.load()};
    std::size_t messages = 0;
    std::uint32_t next = 0; // slot
    for (std::size_t i = 0; i < turn.connections.size(); ++i) {
        auto& connection = *static_cast<Connection*>(turn.connections[i]);
        connection.reading = false;
        if (i > done) {
            want(connection); // the lane did not come to it
        } else if (i == done) {
            stuck(connection, board, next);
        } else {
            const lane::Stretch stretch = board.of[i];
            messages += take(connection, board, stretch.first, stretch.count);
            next = stretch.first + stretch.count;
            go_on(connection, stretch);
        }
    }
    sink_(found_);
    found_.clear();
    lane::close_all(ended_);
    if (!spend(uid, messages)) {
        pause(uid);
    }
}

/// After a turn: closed, watched, or wanted again.
void Receiver::go_on(Connection& connection, const lane::Stretch& stretch) {
    Uid& uid = *connection.uid;
    uid.fresh -= connection.fresh;
    connection.fresh = false;
    if (stretch.ended) {
        close(connection, true);
        return;
    }
    if (stretch.count > 0) {
        connections_.splice(connections_.end(), connections_, connection.place);
    }
    if (!connection.watched && !connection.closing) {
        if (uid.watched >= limits_.connections_per_uid) {
            make_room(uid);
        }
        connection.watched = true;
        uid.watched += 1;
    }
    if (!stretch.dry || connection.closing || draining_) {
        want(connection);
    } else if (!watch(connection)) {
        close(connection, false);
    }
}

/// The lane hangs on what this connection brought: what it found out before counts, the rest of it
/// is refused, and its uid is not read for a while.
void Receiver::stuck(Connection& connection, const lane::Board& board, std::uint32_t first) {
    Uid& uid = *connection.uid;
    const std::uint32_t judged = std::max(board.judged.load(), first);
    const std::uint32_t read = std::max(board.read.load(), judged);
    take(connection, board, first, judged - first);
    const std::size_t lost = std::max<std::size_t>(read - judged, judged == first ? 1 : 0);
    for (std::size_t i = 0; i < lost; ++i) {
        refuse(Refusal::stuck, nullptr);
    }
    if (uid.uid != 0 && !trusted_.is_known(uid.uid)) {
        uid.strikes = std::min(uid.strikes + 1, most_strikes);
        uid.barred_until = now_seconds() + std::min(std::exp2(uid.strikes), longest_bar);
        pause(uid);
    }
    close(connection, false);
}

bool Receiver::watch(Connection& connection) {
    if (draining_) { // the loop is over: nothing can be watched any more
        return true;
    }
    if (connection.source) {
        return sd_event_source_set_enabled(connection.source.get(), SD_EVENT_ONESHOT) >= 0;
    }
    auto source =
        egress::watch(event_, connection.fd.get(), EPOLLIN, [this, &connection](std::uint32_t) {
            want(connection);
            dispatch(*connection.uid);
        });
    if (!source) {
        log::error("watch", "cannot watch a reporter's connection: {}", source.error().text);
        return false;
    }
    connection.source = std::move(*source);
    return sd_event_source_set_enabled(connection.source.get(), SD_EVENT_ONESHOT) >= 0;
}

/// Takes the messages of these slots; how many there were. Numbers from a board are not believed.
std::size_t Receiver::take(const Connection& connection, const lane::Board& board,
                           std::size_t first, std::size_t count) {
    const PeerProcess process(connection.fd.get());
    const std::size_t end = std::min(first + count, board.slot.size());
    for (std::size_t i = first; i < end; ++i) {
        const Finding found = board.slot[i].finding;
        const std::size_t length = std::min<std::size_t>(found.message_length, wire::max_message);
        const std::string_view text(
            reinterpret_cast<const char*>(board.slot[i].bytes.data()) + sizeof(wire::Head), length);
        auto report = conclude(found, text, trusted_, &process);
        if (report) {
            counters_.taken += 1;
            found_.push_back(*report);
        } else {
            refuse(report.error(), found.has_sender ? &found.sender : nullptr);
        }
    }
    return end > first ? end - first : 0;
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
    if (!refill_) {
        auto timer = call_after(
            event_, refill_usec, [this] { refill(); }, 1000);
        if (!timer) {
            uid.paused = false; // rather no quota than a user who is never read again
            uid.barred_until = 0;
            return;
        }
        refill_ = std::move(*timer);
    }
    call_again(refill_, refill_usec);
}

void Receiver::refill() {
    bool waiting = false;
    const double now = now_seconds();
    for (auto& [number, uid] : uids_) {
        if (!uid.paused) {
            continue;
        }
        if (uid.barred_until <= now) {
            uid.barred_until = 0;
        }
        uid.paused = uid.barred() || !spend(uid, 0);
        waiting = waiting || uid.paused;
    }
    dispatch_hungry();
    if (waiting) {
        call_again(refill_, refill_usec);
    }
}

Receiver::Uid& Receiver::greediest() {
    const auto by_connections = [](const auto& a, const auto& b) {
        return a.second.connections < b.second.connections;
    };
    return std::ranges::max_element(uids_, by_connections)->second;
}

/// The idlest connection of the uid goes, after what it had sent was read.
void Receiver::make_room(Uid& uid) {
    const auto stays = [](const auto& it) { return it->watched; };
    auto oldest = std::ranges::find_if(
        connections_, [&](const auto& it) { return it->uid == &uid && stays(it); });
    if (oldest == connections_.end()) {
        oldest = std::ranges::find_if(connections_, stays);
    }
    if (oldest == connections_.end()) {
        return;
    }
    Connection& victim = **oldest;
    Uid& owner = *victim.uid;
    // From here on its sends fail in its own process; what was taken before is read.
    shutdown(victim.fd.get(), SHUT_RD);
    counters_.closed_idle += 1;
    log::warning("connections",
                 "uid {} holds {} connections to the report socket; closing its idlest", owner.uid,
                 owner.connections);
    const bool unreadable = owner.barred() || lanes_.lost(owner.uid) > 0;
    if (!victim.reading && (unreadable || owner.closing >= most_closing)) {
        close(victim, false);
        return;
    }
    owner.watched -= victim.watched;
    victim.watched = false;
    victim.closing = true;
    owner.closing += 1;
    want(victim);
    dispatch(owner);
}

/// One that did not come to its end may hold unread messages, which are slow to close.
void Receiver::close(Connection& connection, bool ended) {
    Uid& uid = *connection.uid;
    uid.connections -= 1;
    uid.watched -= connection.watched;
    uid.fresh -= connection.fresh;
    uid.closing -= connection.closing;
    if (connection.queued) {
        std::erase(uid.ready, &connection);
    }
    connection.source.reset();
    if (ended) {
        ended_.push_back(std::move(connection.fd));
    } else {
        shutdown(connection.fd.get(), SHUT_RD);
        lanes_.discard(std::move(connection.fd));
    }
    connections_.erase(connection.place);
}

void Receiver::drain() {
    draining_ = true;
    for (const auto& connection : connections_) {
        shutdown(connection->fd.get(), SHUT_RD);
        want(*connection);
    }
    for (const Listener& listener : listeners_) {
        if (listener.kept) {
            continue;
        }
        shutdown(listener.fd.get(), SHUT_RD);
        for (int i = 0; i < accepts_at_end && accept_one(listener.fd.get()); ++i) {
        }
    }
    // Each is read to its end and goes, but for those of a uid that is not read now.
    const auto remain = [&] {
        return std::ranges::any_of(connections_, [&](const auto& one) {
            return !one->uid->barred() && lanes_.lost(one->uid->uid) == 0;
        });
    };
    for (const double end = now_seconds() + drain_seconds; remain() && now_seconds() < end;) {
        dispatch_hungry();
        lanes_.wait(200);
    }
}

std::vector<Receiver::User> Receiver::users() const {
    std::vector<User> users;
    for (const auto& [number, uid] : uids_) {
        users.push_back({number, uid.connections, uid.paused_times, lanes_.lost(number)});
    }
    return users;
}

} // namespace egress
