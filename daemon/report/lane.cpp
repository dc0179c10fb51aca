#include "daemon/report/lane.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/report/lane_channel.h"

namespace egress::lane {

namespace {

constexpr std::size_t most_fds = 253;             // SCM_MAX_FD: no message carries more
constexpr std::size_t own_fds = connections + 32; // for connections and for the lane itself
constexpr std::size_t most_at_once = 32;          // messages in one system call

/// The ancillary data that came with one message.
struct Ancillary {
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
                const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                fds = {reinterpret_cast<const int*>(CMSG_DATA(part)), std::min(count, most_fds)};
            }
        }
    }
    std::span<const int> fds;
    Sender sender;
    bool known = false;
};

int option(int fd, int name) {
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

/// True if close() cannot wait: UDP, or another internet socket that does not linger.
bool closes_at_once(int fd, const Finding& found) {
    if (found.by_socket && found.protocol == IPPROTO_UDP) {
        return true;
    }
    const int domain = found.by_socket ? AF_INET : option(fd, SO_DOMAIN);
    if (domain != AF_INET && domain != AF_INET6) {
        return false;
    }
    linger wait{};
    socklen_t length = sizeof wait;
    return getsockopt(fd, SOL_SOCKET, SO_LINGER, &wait, &length) == 0 && wait.l_onoff == 0;
}

class Lane {
  public:
    Lane(Channel channel, Board& board) : channel_(std::move(channel)), board_(board) {
        rlimit files{};
        getrlimit(RLIMIT_NOFILE, &files);
        const std::size_t room = files.rlim_cur > own_fds + most_fds ? files.rlim_cur - own_fds : 0;
        at_once_ = std::clamp<std::size_t>(room / most_fds / 2, 1, most_at_once);
        late_most_ = std::max<std::size_t>(room / 2, 1);
        late_.reserve(slots * most_fds);
        controls_.resize(at_once_);
    }

    [[noreturn]] void serve() {
        for (;;) {
            auto got = channel_.receive<Request>();
            if (!got) {
                _exit(0); // the daemon is gone, or has given up this lane
            }
            waste_.clear();
            if (got->body.kind == Request::Kind::discard) {
                waste_ = std::move(got->fds);
            } else if (got->body.kind == Request::Kind::read) {
                read(got->body, got->fds);
                close_all(got->fds);
            }
        }
    }

  private:
    // Room for credentials and every descriptor that a message can carry: the kernel closes those
    // without room in our name.
    struct alignas(cmsghdr) Control {
        std::array<char, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(most_fds * sizeof(int))> bytes;
    };

    void read(const Request& request, const std::vector<Fd>& connections) {
        board_.read = 0;
        board_.judged = 0;
        board_.done = 0;
        // A connection without a free number here stays unread; the daemon sends it again.
        const std::size_t sent = std::min<std::size_t>(request.connections, board_.of.size());
        std::fill_n(board_.of.begin(), sent, Stretch{});
        const std::size_t count = std::min(connections.size(), sent);
        for (std::size_t i = 0; i < count; ++i) {
            board_.of[i].first = board_.judged;
            read_connection(connections[i].get(), request.most[i], board_.of[i]);
            board_.done = static_cast<std::uint32_t>(i + 1);
        }
        if (!late_.empty()) {
            channel_.send(Answer::judged, {});
            for (const int fd : late_) {
                close(fd);
            }
            late_.clear();
        }
        channel_.send(Answer::free, {});
    }

    void read_connection(int connection, std::size_t most, Stretch& stretch) {
        while (!stretch.ended && !stretch.dry && stretch.count < most &&
               late_.size() < late_most_) {
            const std::size_t first = stretch.first + stretch.count;
            const std::size_t room =
                std::min({most - stretch.count, at_once_, slots - std::min(first, slots)});
            if (room == 0) {
                return;
            }
            const int got = receive(connection, first, room);
            stretch.dry = got < static_cast<int>(room);
            for (int i = 0; i < got; ++i) {
                mmsghdr& header = headers_[static_cast<std::size_t>(i)];
                // A message of length 0 carries credentials; the end of the stream (and every slot
                // after it) does not.
                if (header.msg_len == 0 && header.msg_hdr.msg_controllen == 0) {
                    stretch.ended = true;
                    break;
                }
                stretch.count += 1;
            }
            board_.read = stretch.first + stretch.count;
            judge(first, stretch.first + stretch.count);
        }
    }

    /// Number of received messages; 0: none, or an error that does not concern the queue.
    int receive(int connection, std::size_t first, std::size_t room) {
        for (std::size_t i = 0; i < room; ++i) {
            vectors_[i] = {board_.slot[first + i].bytes.data(),
                           board_.slot[first + i].bytes.size()};
            headers_[i] = {};
            headers_[i].msg_hdr.msg_iov = &vectors_[i];
            headers_[i].msg_hdr.msg_iovlen = 1;
            headers_[i].msg_hdr.msg_control = controls_[i].bytes.data();
            headers_[i].msg_hdr.msg_controllen = controls_[i].bytes.size();
        }
        const int got = recvmmsg(connection, headers_.data(), static_cast<unsigned>(room),
                                 MSG_DONTWAIT | MSG_CMSG_CLOEXEC, nullptr);
        return std::max(got, 0);
    }

    void judge(std::size_t first, std::size_t end) {
        for (std::size_t i = first; i < end; ++i) {
            mmsghdr& header = headers_[i - first];
            const Ancillary came(header.msg_hdr);
            Slot& slot = board_.slot[i];
            slot.finding = find(slot, header, came);
            board_.judged = static_cast<std::uint32_t>(i + 1);
            for (const int fd : came.fds) {
                if (closes_at_once(fd, slot.finding)) {
                    close(fd);
                } else {
                    late_.push_back(fd);
                }
            }
        }
    }

    static Finding find(const Slot& slot, const mmsghdr& header, const Ancillary& came) {
        Finding refused;
        refused.has_sender = came.known;
        refused.sender = came.sender;
        if (!came.known) {
            refused.refusal = Refusal::no_credentials;
            return refused;
        }
        if (header.msg_len > wire::max_record || (header.msg_hdr.msg_flags & MSG_TRUNC) != 0) {
            refused.refusal = Refusal::too_long;
            return refused;
        }
        wire::Record record;
        const auto fault = wire::decode(std::span(slot.bytes).first(header.msg_len), record);
        if (fault != wire::Fault::none) {
            refused.refusal = refusal_of(fault);
            return refused;
        }
        // Truncated: another descriptor was sent, but there was no free number for it.
        const bool lost = (header.msg_hdr.msg_flags & MSG_CTRUNC) != 0;
        if (came.fds.size() > 1 || (came.fds.empty() && lost)) {
            refused.refusal = lost && came.fds.empty() ? Refusal::lost_fd : Refusal::many_fds;
            return refused;
        }
        return examine(record, came.fds.empty() ? -1 : came.fds[0], came.sender);
    }

    Channel channel_;
    Board& board_;
    std::size_t at_once_ = 1;   // messages per system call: each may carry most_fds
    std::size_t late_most_ = 0; // descriptors
    std::vector<int> late_;     // descriptors that may be slow to close
    std::vector<Fd> waste_;     // connections to discard
    std::vector<Control> controls_;
    std::array<iovec, most_at_once> vectors_{};
    std::array<mmsghdr, most_at_once> headers_{};
};

} // namespace

void serve(Fd socket, Fd board) {
    prctl(PR_SET_NAME, "egressd-lane");
    void* const mapped =
        mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, board.get(), 0);
    const Fd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
    if (mapped == MAP_FAILED || !self) {
        _exit(1);
    }
    board.reset();
    Channel channel(std::move(socket));
    channel.send(Answer::hello, std::array{self.get()});
    Lane(std::move(channel), *static_cast<Board*>(mapped)).serve();
}

} // namespace egress::lane
