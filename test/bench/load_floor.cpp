#include "load_floor.h"

#include <array>
#include <csignal>
#include <cstring>

#include <err.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"

namespace egress::bench {

namespace {

constexpr std::size_t batch = 32;

struct Message {
    std::array<std::byte, 1100> bytes;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))> control;
    iovec vector{};
};

void take(msghdr& message) {
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_type == SCM_RIGHTS) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
            sockaddr_storage name{};
            socklen_t length = sizeof name;
            getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length);
            length = sizeof name;
            getpeername(fd, reinterpret_cast<sockaddr*>(&name), &length);
            close(fd);
        }
    }
}

/// Takes up to `most` messages and returns their number; `ended`: the peer is gone.
int receive(int fd, std::size_t most, bool& ended) {
    static std::array<Message, batch> messages;
    static std::array<mmsghdr, batch> headers;
    for (std::size_t i = 0; i < most; ++i) {
        messages[i].vector = {messages[i].bytes.data(), messages[i].bytes.size()};
        headers[i] = {};
        headers[i].msg_hdr.msg_iov = &messages[i].vector;
        headers[i].msg_hdr.msg_iovlen = 1;
        headers[i].msg_hdr.msg_control = messages[i].control.data();
        headers[i].msg_hdr.msg_controllen = messages[i].control.size();
    }
    const int got = recvmmsg(fd, headers.data(), static_cast<unsigned>(most),
                             MSG_DONTWAIT | MSG_CMSG_CLOEXEC, nullptr);
    int taken = 0;
    for (; taken < got && headers[static_cast<std::size_t>(taken)].msg_len > 0; ++taken) {
        take(headers[static_cast<std::size_t>(taken)].msg_hdr);
    }
    ended = got == 0 || taken < got;
    return taken;
}

} // namespace

FloorReceiver::FloorReceiver(const std::string& path) {
    void* const shared =
        mmap(nullptr, sizeof *taken_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        err(1, "mmap");
    }
    taken_ = new (shared) std::atomic<std::uint64_t>(0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    unlink(path.c_str());
    const Fd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        setsockopt(listener.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0 ||
        listen(listener.get(), SOMAXCONN) != 0) {
        err(1, "cannot listen on %s", path.c_str());
    }
    pid_ = fork();
    if (pid_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run(listener.get());
    }
}

FloorReceiver::~FloorReceiver() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    munmap(taken_, sizeof *taken_);
}

void FloorReceiver::run(int listener) {
    const int poller = epoll_create1(EPOLL_CLOEXEC);
    const auto watch = [poller](int fd) {
        epoll_event event{EPOLLIN, {.fd = fd}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    };
    watch(listener);
    while (true) {
        epoll_event event{};
        if (epoll_wait(poller, &event, 1, -1) != 1) {
            continue;
        }
        const auto read = [&](int fd, std::size_t most) {
            bool ended = false;
            taken_->fetch_add(static_cast<std::uint64_t>(receive(fd, most, ended)));
            return !ended;
        };
        if (event.data.fd != listener) {
            if (!read(event.data.fd, batch)) {
                close(event.data.fd);
            }
            continue;
        }
        for (int fd = -1; (fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
            // A one-shot report is two messages long: itself and the end. recvmmsg would read the
            // end again for every slot that it is given.
            if (read(fd, 2)) {
                watch(fd);
            } else {
                close(fd);
            }
        }
    }
}

} // namespace egress::bench
