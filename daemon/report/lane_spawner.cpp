#include "daemon/report/lane_spawner.h"

#include <array>
#include <csignal>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/rights.h"
#include "daemon/report/lane.h"

namespace egress::lane {

namespace {

/// The body of the message with the two descriptors of a lane.
struct Order {
    char nothing = 0;
};

constexpr int channel_fd = 3;

/// Keeps only `channel`, as descriptor 3, and the null device as the first three.
void keep_only(int channel) {
    if (channel != channel_fd) {
        dup2(channel, channel_fd);
    }
    fcntl(channel_fd, F_SETFD, FD_CLOEXEC);
    if (close_range(channel_fd + 1, ~0U, 0) != 0) {
        for (int fd = channel_fd + 1; fd < 4096; ++fd) {
            close(fd);
        }
    }
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < channel_fd; ++fd) {
        dup2(null, fd);
    }
    close(null);
}

void raise_files() {
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        constexpr rlim_t enough = 65536;
        files.rlim_cur = files.rlim_max < enough ? files.rlim_max : enough;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/// A signal that stops the daemon must not stop the lanes: the daemon reads reports until its end,
/// and then the lanes end with it.
void ignore_signals() {
    for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGPIPE}) {
        std::signal(number, SIG_IGN);
    }
    std::signal(SIGCHLD, SIG_IGN); // reaps lanes by itself
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void spawn_for_ever() {
    prctl(PR_SET_NAME, "egressd-lanes");
    setsid(); // signals of the terminal are for the daemon
    ignore_signals();
    raise_files();
    give_up_rights(); // a lane reads messages of strangers and needs none
    const Channel channel{Fd(channel_fd)};
    for (;;) {
        auto got = channel.receive<Order>();
        if (!got) {
            _exit(0);
        }
        if (got->fds.size() != 2 || fork() != 0) {
            continue;
        }
        close(channel_fd);
        serve(std::move(got->fds[0]), std::move(got->fds[1]));
    }
}

} // namespace

Result<Spawner> Spawner::start() {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        return fail_errno("cannot make a socket for the process that reads reports");
    }
    Fd ours(ends[0]);
    const Fd theirs(ends[1]);
    const pid_t pid = fork();
    if (pid < 0) {
        return fail_errno("cannot start the process that reads reports");
    }
    if (pid == 0) {
        keep_only(theirs.get());
        spawn_for_ever();
    }
    fcntl(ours.get(), F_SETFL, O_NONBLOCK);
    return Spawner(Channel(std::move(ours)));
}

bool Spawner::spawn(int socket, int board) const {
    return channel_.send(Order{}, std::array{socket, board});
}

} // namespace egress::lane
