#include "ctl/run_child.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>

#include "ctl/out.h"
#include "lib/fd.h"

namespace egress::ctl {

namespace {

constexpr std::array forwarded = {SIGINT,  SIGQUIT, SIGTERM, SIGHUP,
                                  SIGUSR1, SIGUSR2, SIGALRM, SIGCONT};

/// For the handler; set while a child runs.
volatile pid_t child_of_handler = 0;

/// The terminal sends its signals to the child, too; hand on only what a process has sent.
extern "C" void hand_on(int signal, siginfo_t* info, void*) {
    const int before = errno;
    if (info->si_code <= 0 && child_of_handler > 0) {
        kill(child_of_handler, signal);
    }
    errno = before;
}

sigset_t signals() {
    sigset_t out;
    sigemptyset(&out);
    for (const int signal : forwarded) {
        sigaddset(&out, signal);
    }
    return out;
}

void hand_signals_on() {
    struct sigaction action {};
    action.sa_sigaction = hand_on;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    for (const int signal : forwarded) {
        struct sigaction before {};
        if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) {
            sigaction(signal, &action, nullptr);
        }
    }
}

/// Whether it goes on already: the terminal has stopped us with it, and both were woken.
bool goes_on(pid_t child) {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(child), &info, WCONTINUED | WNOHANG) == 0 &&
           info.si_pid == child;
}

[[noreturn]] void become(const std::vector<std::string>& command) {
    std::vector<char*> words;
    for (const auto& word : command) {
        words.push_back(const_cast<char*>(word.c_str()));
    }
    words.push_back(nullptr);
    // No hook on the level of cgroups sees packet sockets. Fails for ordinary users, who have no
    // right to make any.
    prctl(PR_CAPBSET_DROP, CAP_NET_RAW, 0, 0, 0);
    execvp(words[0], words.data());
    const int code = errno;
    print(stderr, "egressctl run: cannot start {}: {}\n", printable(command[0]),
          std::strerror(code));
    std::fflush(stderr);
    _exit(code == ENOENT ? 127 : 126);
}

[[noreturn]] void be_child(const std::vector<std::string>& command, const Prepare& prepare,
                           const Fd& to, const sigset_t& mask) {
    std::string told;
    const bool ready = prepare(told);
    const std::string text = (ready ? "+" : "-") + told;
    const bool written =
        write(to.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (!ready || !written) {
        _exit(not_prepared);
    }
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    become(command);
}

/// Until the other end is closed, by exec or by exit.
std::string read_all(const Fd& from) {
    std::string out;
    char some[4096];
    ssize_t got = 0;
    while ((got = read(from.get(), some, sizeof some)) > 0 || (got < 0 && errno == EINTR)) {
        out.append(some, static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    }
    return out;
}

} // namespace

Result<Started> start_child(const std::vector<std::string>& command, const Prepare& prepare) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        return fail_errno("cannot make a pipe");
    }
    const Fd from(ends[0]);
    Fd to(ends[1]);
    std::fflush(nullptr);
    // The command runs as the same user, and may not have us connect for it: no ptrace. Its exec
    // gives the child back what this takes.
    prctl(PR_SET_DUMPABLE, 0);
    const sigset_t held = signals();
    sigset_t mask;
    sigprocmask(SIG_BLOCK, &held, &mask);
    Started out;
    out.child = fork();
    if (out.child == 0) {
        be_child(command, prepare, to, mask);
    }
    const int code = errno;
    to.reset();
    if (out.child > 0) {
        child_of_handler = out.child;
        hand_signals_on();
    }
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    if (out.child < 0) {
        return fail_errno("cannot start a process", code);
    }
    out.told = read_all(from);
    out.ready = out.told.starts_with('+');
    out.told.erase(0, 1);
    return out;
}

int wait_for_child(pid_t child) {
    int status = 0;
    for (;;) {
        const pid_t found = waitpid(child, &status, WUNTRACED);
        if (found < 0 && errno == EINTR) {
            continue;
        }
        if (found < 0) {
            return not_prepared;
        }
        if (WIFSTOPPED(status)) {
            if (!goes_on(child)) { // another's signal has stopped it alone
                raise(SIGSTOP);
                kill(child, SIGCONT);
            }
            continue;
        }
        child_of_handler = 0;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

} // namespace egress::ctl
