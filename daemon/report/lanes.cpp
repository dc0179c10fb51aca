#include "daemon/report/lanes.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/log.h"

namespace egress {

namespace {

constexpr std::uint64_t tick_usec = 200'000;
constexpr unsigned birth_patience = 50; // ticks until the first word of a new process
constexpr unsigned slow_factor = 5;     // more patience with a lane that may not be waiting at all
constexpr unsigned idle_ticks = 10;     // an idle lane that is not the last goes after so many
constexpr std::size_t discards_at_once = 64;
static_assert(lane::connections <= lane::Channel::most_fds);

lane::Board* map_board(int fd) {
    void* const at = mmap(nullptr, sizeof(lane::Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? nullptr : static_cast<lane::Board*>(at);
}

/// Whether a process runs or waits for a processor; false where /proc does not tell.
bool is_runnable(int pidfd) {
    std::ifstream info(fmt::format("/proc/self/fdinfo/{}", pidfd));
    for (std::string line; std::getline(info, line);) {
        if (line.starts_with("Pid:\t")) {
            std::ifstream file(fmt::format("/proc/{}/stat", line.substr(5)));
            std::string stat;
            std::getline(file, stat);
            const auto name_end = stat.rfind(')'); // the name may have anything in it
            return name_end != std::string::npos && stat.substr(name_end + 1).starts_with(" R");
        }
    }
    return false;
}

} // namespace

struct Lanes::Lane {
    enum class State : std::uint8_t {
        idle,
        reading,
        closing, // everything is judged
        lost,
    };
    ~Lane() {
        source.reset();
        if (board != nullptr) {
            munmap(board, sizeof(lane::Board));
        }
    }
    bool busy() const { return state == State::reading || state == State::closing; }
    void kill() const {
        if (pidfd) {
            syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
        }
    }

    lane::Channel channel;
    lane::Board* board = nullptr;
    Fd pidfd; // empty: it has not said a word yet
    Source source;
    State state = State::idle;
    unsigned ticks = 0;         // in this state
    unsigned stalled = 0;       // of them, since it got further
    std::uint32_t progress = 0; // what its board said then
    Turn turn;
    Place place;
};

Lanes::Lanes(sd_event* event, lane::Spawner spawner, Judged judged, std::function<void()> freed)
    : event_(event), spawner_(std::move(spawner)), judged_(std::move(judged)),
      freed_(std::move(freed)) {
    // Made now, while there are descriptors for them.
    make();
    bin_ = make();
}

Lanes::~Lanes() {
    for (const auto& lane : lanes_) {
        if (lane->state != Lane::State::idle) {
            lane->kill();
        }
    }
}

bool Lanes::may_begin(const Turn& turn) const {
    std::size_t busy = 0;     // of all strangers
    std::size_t own_busy = 0; // of this uid
    std::size_t lost = 0;
    std::size_t own_lost = 0;
    for (const auto& lane : lanes_) {
        const bool own = lane->turn.uid == turn.uid && lane.get() != bin_;
        if (own && lane->state == Lane::State::reading && lane->ticks == 0) {
            return false; // one at a time, so that its reports stay in order
        }
        own_busy += own && lane->busy();
        busy += !lane->turn.reserved && lane->busy();
        own_lost += own && lane->state == Lane::State::lost;
        lost += !lane->turn.reserved && lane->state == Lane::State::lost;
    }
    if (turn.reserved) {
        return own_busy < limits_.reserved_busy && own_lost < limits_.reserved_lost;
    }
    return own_busy == 0 && busy < limits_.strangers_busy && lost < limits_.strangers_lost &&
           own_lost < limits_.lost_per_uid;
}

std::size_t Lanes::lost(std::uint32_t uid) const {
    return static_cast<std::size_t>(std::ranges::count_if(lanes_, [&](const auto& lane) {
        return lane->state == Lane::State::lost && lane->turn.uid == uid && lane.get() != bin_;
    }));
}

bool Lanes::moves(std::uint32_t uid) const {
    return std::ranges::any_of(lanes_, [&](const auto& lane) {
        return lane->busy() && lane->turn.uid == uid && lane->ticks <= 1;
    });
}

bool Lanes::begin(Turn turn, std::span<const int> fds, std::span<const std::uint8_t> most) {
    Lane* chosen = nullptr;
    if (may_begin(turn)) {
        const auto idle = std::ranges::find_if(lanes_, [&](const auto& lane) {
            return lane->state == Lane::State::idle && lane.get() != bin_;
        });
        chosen = idle != lanes_.end() ? idle->get() : make();
    }
    if (chosen == nullptr) {
        return false;
    }
    lane::Request request;
    request.connections = static_cast<std::uint32_t>(fds.size());
    std::ranges::copy(most, request.most.begin());
    // What a lane says that is lost before its first word is told by an untouched board.
    chosen->board->done = 0;
    chosen->board->read = 0;
    chosen->board->judged = 0;
    if (!chosen->channel.send(request, fds)) {
        remove(*chosen);
        watch_time();
        return false;
    }
    chosen->turn = std::move(turn);
    chosen->state = Lane::State::reading;
    chosen->ticks = chosen->stalled = 0;
    lanes_.splice(lanes_.begin(), lanes_, chosen->place);
    watch_time();
    return true;
}

Lanes::Lane* Lanes::make() {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        log::error("lanes", "cannot make a socket for a process that reads reports");
        return nullptr;
    }
    auto lane = std::make_unique<Lane>();
    lane->channel = lane::Channel(Fd(ends[0]));
    const Fd theirs(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    const Fd board(memfd_create("egress-board", MFD_CLOEXEC));
    if (!board || ftruncate(board.get(), sizeof(lane::Board)) != 0 ||
        (lane->board = map_board(board.get())) == nullptr ||
        !spawner_.spawn(theirs.get(), board.get())) {
        log::error("lanes", "cannot start a process that reads reports; they wait");
        return nullptr;
    }
    auto source = watch(event_, lane->channel.fd(), EPOLLIN,
                        [this, raw = lane.get()](std::uint32_t) { hear(*raw); });
    if (!source) {
        return nullptr;
    }
    lane->source = std::move(*source);
    lanes_.push_front(std::move(lane));
    lanes_.front()->place = lanes_.begin();
    return lanes_.front().get();
}

void Lanes::hear(Lane& lane) {
    if (!lane.pidfd) { // only the first word brings a descriptor: our own
        auto hello = lane.channel.receive<lane::Answer>();
        if (!hello || hello->fds.size() != 1) {
            bury(lane);
            return;
        }
        lane.pidfd = std::move(hello->fds[0]);
        if (lane.state == Lane::State::lost) {
            lane.kill();
        }
        return;
    }
    const auto answer = lane.channel.receive_plain<lane::Answer>();
    if (!answer) {
        bury(lane);
        return;
    }
    if (lane.state == Lane::State::reading) {
        lane.state = Lane::State::closing; // the board is in use
        finish(lane, End::judged);
    }
    if (lane.state == Lane::State::closing && *answer == lane::Answer::free) {
        lane.state = Lane::State::idle;
        freed_();
    }
}

/// Its process has ended.
void Lanes::bury(Lane& lane) {
    if (lane.state == Lane::State::reading) {
        lane.state = Lane::State::lost;
        finish(lane, End::lost);
    }
    remove(lane);
    freed_();
}

/// Moves the turn's connections out first: what hears of them may begin the next turn.
void Lanes::finish(Lane& lane, End end) {
    const Turn turn{lane.turn.uid, lane.turn.reserved, std::move(lane.turn.connections)};
    lane.turn.connections.clear();
    judged_(turn, *lane.board, end);
}

void Lanes::give_up(Lane& lane) {
    const bool was_reading = lane.state == Lane::State::reading;
    lane.state = Lane::State::lost;
    lane.ticks = 0;
    counters_.given_up += 1;
    lane.kill();
    if (&lane != bin_) {
        log::warning(
            "lane-lost",
            "what uid {} sent keeps the process that {} waiting in the kernel; it is given "
            "up ({} of this uid's are not gone yet)",
            lane.turn.uid, was_reading ? "reads it" : "closes it", lost(lane.turn.uid));
    }
    if (was_reading) {
        finish(lane, End::lost);
    }
    freed_();
}

void Lanes::remove(Lane& lane) {
    if (&lane == bin_) {
        bin_ = nullptr;
    }
    lanes_.erase(lane.place);
}

void Lanes::discard(Fd connection) {
    parked_.push_back(std::move(connection));
    while (!parked_.empty()) {
        if (bin_ == nullptr && (bin_ = make()) == nullptr) {
            break;
        }
        std::array<int, discards_at_once / 2> some{};
        const std::size_t count = std::min(some.size(), parked_.size());
        std::ranges::transform(parked_.begin(),
                               parked_.begin() + static_cast<std::ptrdiff_t>(count), some.begin(),
                               [](const Fd& fd) { return fd.get(); });
        lane::Request request;
        request.kind = lane::Request::Kind::discard;
        request.connections = static_cast<std::uint32_t>(count);
        if (!bin_->channel.send(request, std::span(some).first(count))) {
            break; // its queue is full: tick() looks after it
        }
        // In flight, so this close is not the last.
        parked_.erase(parked_.begin(), parked_.begin() + static_cast<std::ptrdiff_t>(count));
        request.kind = lane::Request::Kind::go;
        request.connections = 0;
        bin_->channel.send(request, {});
    }
    watch_time();
}

void Lanes::wait(int milliseconds) {
    std::vector<pollfd> fds;
    std::vector<Lane*> of;
    for (const auto& lane : lanes_) {
        if (lane->busy()) {
            fds.push_back({lane->channel.fd(), POLLIN, 0});
            of.push_back(lane.get());
        }
    }
    if (poll(fds.data(), fds.size(), milliseconds) == 0) {
        tick();
        return;
    }
    for (std::size_t i = 0; i < fds.size(); ++i) {
        if (fds[i].revents != 0) {
            hear(*of[i]);
            return; // it may have changed the list
        }
    }
}

/// A lane that hangs sleeps in the kernel and gets no further. One that goes on, or that would if
/// it got a processor, is only slow: a machine under attack has others to run, and the lock of a
/// socket may be held by a process that waits for a processor, too. Root's messages are no attack.
bool Lanes::is_late(const Lane& lane) const {
    if (!lane.pidfd) {
        return lane.ticks > birth_patience;
    }
    const bool goes_on =
        lane.stalled <= limits_.patience || lane.turn.uid == 0 || is_runnable(lane.pidfd.get());
    return lane.ticks > (goes_on ? slow_factor * limits_.patience : limits_.patience);
}

/// Counts ticks, not time: a pause of the machine or of this daemon must not count against a lane.
void Lanes::tick() {
    std::size_t idle = 0;
    bool slow = false;
    std::vector<Lane*> late;
    std::vector<Lane*> spare;
    for (const auto& lane : lanes_) {
        lane->ticks += 1;
        slow = slow || (lane->busy() && lane->ticks == 1);
        const std::uint32_t progress = lane->board->judged + lane->board->done;
        lane->stalled = progress == std::exchange(lane->progress, progress) ? lane->stalled + 1 : 0;
        if (lane->busy() && is_late(*lane)) {
            late.push_back(lane.get());
        } else if (lane->state == Lane::State::idle && lane.get() != bin_) {
            idle += 1;
            if (idle > 1 && lane->ticks > idle_ticks) {
                spare.push_back(lane.get());
            }
        }
    }
    for (Lane* const lane : spare) {
        remove(*lane);
    }
    for (Lane* const lane : late) {
        give_up(*lane);
    }
    if (slow) {
        freed_(); // who has lanes reserved may go on in another one
    }
    if (!parked_.empty()) { // the bin takes nothing: another one does
        if (Lane* const full = std::exchange(bin_, nullptr); full != nullptr) {
            full->kill();
            remove(*full);
        }
        Fd one = std::move(parked_.back());
        parked_.pop_back();
        discard(std::move(one));
    }
}

/// The timer runs while there is something to look at.
void Lanes::watch_time() {
    if (ticking_) {
        return;
    }
    const auto idle = std::ranges::count_if(lanes_, [&](const auto& lane) {
        return lane->state == Lane::State::idle && lane.get() != bin_;
    });
    const bool busy = std::ranges::any_of(lanes_, [](const auto& lane) { return lane->busy(); });
    if (parked_.empty() && idle <= 1 && !busy) {
        return;
    }
    if (!tick_) {
        const auto turn = [this] {
            ticking_ = false;
            tick();
            watch_time();
        };
        auto timer = call_after(event_, tick_usec, turn, 10'000);
        if (!timer) {
            return;
        }
        tick_ = std::move(*timer);
    }
    call_again(tick_, tick_usec);
    ticking_ = true;
}

Lanes::Counters Lanes::counters() const {
    Counters out = counters_;
    for (const auto& lane : lanes_) {
        const bool lost = lane->state == Lane::State::lost;
        out.running += !lost && lane->pidfd;
        out.lost += lost;
        out.busy += lane->busy();
    }
    return out;
}

} // namespace egress
