#include "daemon/base/child.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/log.h"

namespace egress {

namespace {

struct Actions {
    Actions() { posix_spawn_file_actions_init(&raw); }
    ~Actions() { posix_spawn_file_actions_destroy(&raw); }
    posix_spawn_file_actions_t raw;
};

struct Attributes {
    Attributes() {
        posix_spawnattr_init(&raw);
        sigset_t none;
        sigset_t all;
        sigemptyset(&none);
        sigfillset(&all);
        posix_spawnattr_setsigmask(&raw, &none);
        posix_spawnattr_setsigdefault(&raw, &all);
        posix_spawnattr_setpgroup(&raw, 0);
        posix_spawnattr_setflags(&raw, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                           POSIX_SPAWN_SETPGROUP);
    }
    ~Attributes() { posix_spawnattr_destroy(&raw); }
    posix_spawnattr_t raw;
};

std::vector<char*> pointers(const std::vector<std::string>& texts) {
    std::vector<char*> out;
    for (const auto& text : texts) {
        out.push_back(const_cast<char*>(text.c_str()));
    }
    out.push_back(nullptr);
    return out;
}

} // namespace

Reaper::Reaper(sd_event* event) {
    source_ = watch_signal(event, SIGCHLD, [this] { reap(); }).value_or(nullptr);
}

void Reaper::expect(pid_t pid, std::function<void(int)> done) {
    waiting_[pid] = std::move(done);
}

void Reaper::forget(pid_t pid) {
    if (const auto found = waiting_.find(pid); found != waiting_.end()) {
        found->second = nullptr;
    }
}

void Reaper::reap() {
    // One SIGCHLD may mean many children; wait only for those that expect() named.
    std::vector<std::pair<std::function<void(int)>, int>> finished;
    for (auto it = waiting_.begin(); it != waiting_.end();) {
        int status = 0;
        const pid_t got = waitpid(it->first, &status, WNOHANG);
        if (got == it->first || (got < 0 && errno == ECHILD)) {
            finished.emplace_back(std::move(it->second), status);
            it = waiting_.erase(it);
        } else {
            ++it;
        }
    }
    for (const auto& [done, status] : finished) {
        if (done) {
            done(status);
        }
    }
}

Result<std::unique_ptr<Child>> Child::spawn(sd_event* event, Reaper& reaper,
                                            const std::vector<std::string>& argv,
                                            const std::vector<std::string>& environment,
                                            Handlers handlers) {
    std::unique_ptr<Child> child(new Child(event, reaper, std::move(handlers)));
    std::array<int, 2> pair{};
    std::array<int, 2> error{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
        return fail_errno("cannot make a socket pair");
    }
    child->pipe_.reset(pair[0]);
    const Fd theirs(pair[1]);
    if (pipe2(error.data(), O_CLOEXEC) != 0) {
        return fail_errno("cannot make a pipe");
    }
    child->error_.reset(error[0]);
    const Fd their_error(error[1]);

    Actions actions;
    posix_spawn_file_actions_adddup2(&actions.raw, theirs.get(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions.raw, theirs.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions.raw, their_error.get(), STDERR_FILENO);
    const Attributes attributes;
    std::vector<std::string> variables = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"};
    variables.insert(variables.end(), environment.begin(), environment.end());
#ifdef EGRESS_SANITIZED
    // Where this process may not look for leaks, its children may not either.
    if (const char* options = secure_getenv("ASAN_OPTIONS"); options != nullptr) {
        variables.push_back(std::string("ASAN_OPTIONS=") + options);
    }
#endif
    pid_t pid = -1;
    const int code = posix_spawn(&pid, argv[0].c_str(), &actions.raw, &attributes.raw,
                                 pointers(argv).data(), pointers(variables).data());
    if (code != 0) {
        return fail_errno("cannot run the helper " + argv[0], code);
    }
    child->pid_ = pid;
    child->running_ = true;
    reaper.expect(pid, [raw = child.get(), alive = child->alive_](int status) {
        if (*alive) {
            raw->running_ = false;
            raw->handlers_.exited(status);
        }
    });
    if (auto watched = child->watch(); !watched) {
        return std::unexpected(watched.error());
    }
    return child;
}

Child::~Child() {
    abandon();
}

void Child::abandon() {
    *alive_ = false;
    pipe_source_.reset();
    error_source_.reset();
    if (std::exchange(running_, false)) {
        reaper_.forget(pid_);
        kill(-pid_, SIGKILL);
    }
}

Result<> Child::watch() {
    fcntl(pipe_.get(), F_SETFL, O_NONBLOCK);
    fcntl(error_.get(), F_SETFL, O_NONBLOCK);
    auto output = egress::watch(event_, pipe_.get(), EPOLLIN,
                                [this](std::uint32_t events) { on_output(events); });
    auto error_output =
        egress::watch(event_, error_.get(), EPOLLIN, [this](std::uint32_t) { on_error_output(); });
    if (!output || !error_output) {
        return std::unexpected(output ? error_output.error() : output.error());
    }
    pipe_source_ = std::move(*output);
    error_source_ = std::move(*error_output);
    return {};
}

void Child::on_output(std::uint32_t events) {
    const auto alive = alive_;
    if ((events & EPOLLOUT) != 0) {
        flush();
    }
    if (*alive && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        read_lines();
    }
}

void Child::stop_reading() {
    if (pipe_source_) {
        sd_event_source_set_enabled(pipe_source_.get(), SD_EVENT_OFF);
    }
}

void Child::read_lines() {
    const auto alive = alive_;
    std::array<char, 65536> buffer;
    const ssize_t got = read(pipe_.get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        stop_reading();
        if (!in_.empty()) { // a last line without its newline
            const std::string line = std::exchange(in_, {});
            handlers_.line(line);
            if (!*alive) {
                return;
            }
        }
        handlers_.broken("closed its output");
        return;
    }
    std::string_view rest(buffer.data(), static_cast<std::size_t>(got));
    while (!rest.empty()) {
        const auto end = rest.find('\n');
        in_.append(rest.substr(0, end));
        if (in_.size() > max_line) {
            stop_reading();
            handlers_.broken("wrote a line of more than " + std::to_string(max_line) + " bytes");
            return;
        }
        if (end == std::string_view::npos) {
            return;
        }
        const std::string line = std::exchange(in_, {});
        handlers_.line(line);
        if (!*alive) {
            return;
        }
        rest.remove_prefix(end + 1);
    }
}

void Child::drain() {
    constexpr int most_reads = 4; // later output does not matter
    for (int i = 0; i < most_reads; ++i) {
        read_lines();
    }
}

void Child::on_error_output() {
    std::array<char, 1024> buffer;
    const ssize_t got = read(error_.get(), buffer.data(), buffer.size());
    if (got > 0) {
        std::string_view text(buffer.data(), static_cast<std::size_t>(got));
        while (!text.empty() && text.back() == '\n') {
            text.remove_suffix(1);
        }
        log::warning("helper-said", "the helper says: {}", escape(text, 300));
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        sd_event_source_set_enabled(error_source_.get(), SD_EVENT_OFF);
    }
}

void Child::flush() {
    while (queued() > 0) {
        const ssize_t put =
            send(pipe_.get(), out_.data() + written_, queued(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (put < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                // The reading side notices the end too, and reports it once.
                out_.clear();
                written_ = 0;
            }
            break;
        }
        written_ += static_cast<std::size_t>(put);
    }
    constexpr std::size_t worth_moving = 64 << 10;
    if (queued() == 0 || written_ > worth_moving) {
        out_.erase(0, written_);
        written_ = 0;
    }
    update_interest();
}

void Child::update_interest() {
    if (!pipe_source_) {
        return;
    }
    sd_event_source_set_io_events(pipe_source_.get(), queued() > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

} // namespace egress
