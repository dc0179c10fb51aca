// egressd: options, -n, set-up, run.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/stat.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>
#include <unistd.h>

#include "daemon/base/journal.h"
#include "daemon/base/log.h"
#include "daemon/bpf/tables/lockout.h"
#include "daemon/bpf/tables/world.h"
#include "daemon/daemon.h"
#include "daemon/egress/look_up.h"
#include "daemon/options.h"
#include "daemon/reload/kept_rules.h"
#include "daemon/report/lane_spawner.h"
#include "egress-paths.h"

namespace {

using namespace egress;

constexpr int exit_usage = 2;
constexpr const char* pid_file = EGRESS_RUN_DIR "/egressd.pid";

void say(const std::string& text) {
    fmt::print(stderr, "{}{}\n", log::error_is_journal() ? "" : "egressd: ", text);
}

/// Prints what the parser found; false where there are errors.
bool report(const policy::Parsed& parsed) {
    for (const auto& diagnostic : parsed.diagnostics) {
        fmt::print(stderr, "{}\n", diagnostic.message());
    }
    return parsed.ok();
}

void block_signals() {
    sigset_t ours;
    sigemptyset(&ours);
    for (const int signal : {SIGHUP, SIGTERM, SIGINT, SIGCHLD}) {
        sigaddset(&ours, signal);
    }
    sigprocmask(SIG_BLOCK, &ours, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
}

void raise_limits() {
    rlimit files{};
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        constexpr rlim_t enough = 65536;
        files.rlim_cur = files.rlim_max < enough ? files.rlim_max : enough;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/// Goes into the background. The parent stays until the child says that it is ready (a byte) or has
/// failed (end of file), so that a start script sees the truth. Returns the pipe's end to write to.
Fd go_background() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
        return {};
    }
    const pid_t pid = fork();
    if (pid != 0) {
        close(ends[1]);
        char byte = 0;
        _exit(pid > 0 && read(ends[0], &byte, 1) == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
    }
    close(ends[0]);
    setsid();
    return Fd(ends[1]);
}

void leave_terminal(Fd& ready) {
    if (const int null = open("/dev/null", O_RDWR | O_CLOEXEC); null >= 0) {
        for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
            dup2(null, fd);
        }
        close(null);
    }
    if (std::FILE* const file = std::fopen(pid_file, "we")) {
        fmt::print(file, "{}\n", getpid());
        std::fclose(file);
    }
    [[maybe_unused]] const auto put = write(ready.get(), "r", 1);
    ready.reset();
}

int serve(const DaemonOptions& options, policy::Policy policy, lane::Spawner spawner) {
    const bool foreground = options.foreground || getenv("NOTIFY_SOCKET") != nullptr;
    const auto in_run = [](const std::string& path) {
        return path.starts_with(EGRESS_RUN_DIR "/");
    };
    if (!foreground || in_run(options.report_socket) || in_run(options.control_socket)) {
        mkdir(EGRESS_RUN_DIR,
              0755); // there already, or made by the unit; a failure shows at the sockets
    }
    Fd ready = foreground ? Fd() : go_background();
    block_signals();
    raise_limits();
    const auto threshold = options.verbose ? log::Level::debug : log::Level::info;
    log::open(log::Target::standard_error, threshold);
    log::use_journal(sd_journal_sendv);
    auto daemon = Daemon::make(options, std::move(policy), std::move(spawner));
    if (!daemon) {
        say(daemon.error().text);
        return EXIT_FAILURE;
    }
    if (!options.foreground) {
        log::open(log::best_target(), threshold);
    }
    const auto ended = (*daemon)->run([&] {
        if (!foreground) {
            leave_terminal(ready);
        }
    });
    if (!foreground) {
        unlink(pid_file);
    }
    if (!ended) {
        log::error("end", "{}", ended.error().text);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}

/// The rules files have errors. A host that boots must not be without rules for that.
int serve_kept(DaemonOptions options, const policy::Parsed& wrong, lane::Spawner spawner) {
    auto kept = kept_rules(options.database, options.conf);
    if (!kept) {
        say("the rules have errors; not started");
        return EXIT_FAILURE;
    }
    const auto first = std::ranges::find(wrong.diagnostics, policy::Diagnostic::Severity::error,
                                         &policy::Diagnostic::severity);
    options.rules_error = "the rules files have errors, and the rules of the last good start are "
                          "in force";
    if (first != wrong.diagnostics.end()) {
        options.rules_error += ": " + first->message();
    }
    options.hold_egress = kept->without_egress;
    return serve(options, std::move(kept->policy), std::move(spawner));
}

} // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::string_view(argv[1]) == look_up_option) {
        return look_up();
    }
    const auto options = parse_options(argc, argv);
    if (!options) {
        say(options.error().text + "\nTry \"egressd --help\".");
        return exit_usage;
    }
    if (options->help) {
        fmt::print("{}", usage());
        return EXIT_SUCCESS;
    }
    if (options->version) {
        fmt::print("egressd {}\n", EGRESS_VERSION);
        return EXIT_SUCCESS;
    }
    // While this process holds nothing yet: what reads the reports must not hold any of it either.
    auto spawner = options->check ? Result<lane::Spawner>() : lane::Spawner::start();
    if (!spawner) {
        say(spawner.error().text);
        return EXIT_FAILURE;
    }
    // Lists and tables come and go as a whole: in mappings of their own they leave nothing behind.
    // Set by hand it stays; by itself the threshold would grow to 32 MiB with the first list.
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    auto parsed = policy::parse_files(options->conf, Rulebook::directory_of(options->conf));
    const bool well = report(parsed);
    if (!well && !options->check) {
        return serve_kept(*options, parsed, std::move(*spawner));
    }
    if (!well) {
        say("the rules have errors");
        return EXIT_FAILURE;
    }
    if (options->check) {
        for (const auto& warning : bpf::check_system(parsed.policy)) {
            fmt::print(stderr, "{}\n", warning.message());
        }
        for (const auto& lockout :
             bpf::lockouts(parsed.policy, {bpf::root_shell()}, SystemClock())) {
            fmt::print(stderr, "{}\n", lockout.message());
        }
        fmt::print("egressd: {}: the rules are good\n", options->conf);
        return EXIT_SUCCESS;
    }
    return serve(*options, std::move(parsed.policy), std::move(*spawner));
}
