// egress-helper: opens and closes the firewall for egressd, by either of two contracts.
// Only the protocol goes to standard output; man 7 egress-helper describes it.
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <span>

#include <egress-paths.h>
#include <fmt/core.h>
#include <unistd.h>

#include "helper/privileges.h"
#include "helper/proto.h"
#include "helper/serve.h"
#include "helper/table.h"

namespace egress::helper {

namespace {

constexpr int failed = 1;
constexpr int wrong_usage = 2;

constexpr const char* usage = "usage: egress-helper serve\n"
                              "       egress-helper add|rem NAME PROTO ADDR MASKLEN PORT ID\n"
                              "       egress-helper flush NAME\n"
                              "       egress-helper clear\n"
                              "       egress-helper --help | --version\n";

constexpr const char* help =
    "\n"
    "Blocks addresses in the nftables table inet egress. egressd runs it; man 7 egress-helper\n"
    "has both protocols. clear removes the whole table; egressd, if it runs, makes it again.\n"
    "PROTO is tcp, udp, a number, or \"\" for any; PORT a number or \"\".\n"
    "Environment: EGRESS_SECONDS  time of the block in seconds, * (default) for ever\n"
    "             EGRESS_ACTION   drop (default) or reject\n";

int complain(const Error& error) {
    fmt::print(stderr, "egress-helper: {}\n", error.text);
    return failed;
}

/// The helper inherits signals that the parent blocks for its own loop, or ignores.
void reset_signals() {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    // A transaction is atomic, so a kill at any moment leaves no partial change.
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGPIPE, SIG_IGN); // write() reports it
}

int serve() {
    auto table = Table::open();
    if (!table) {
        return complain(table.error());
    }
    // No PR_SET_PDEATHSIG: it follows the thread that forked us, which may end before the daemon.
    // When the daemon ends, it closes our input, and we end.
    return Server(*table, STDIN_FILENO, STDOUT_FILENO).run();
}

Result<> perform(const Event& event) {
    auto table = Table::open();
    if (!table) {
        return std::unexpected(table.error());
    }
    if (event.verb == Verb::flush) {
        return table->flush(event.name);
    }
    const Change change{event.verb == Verb::add, event.name, event.block};
    return table->apply(std::span(&change, 1)).front();
}

int one_event(std::span<const char* const> arguments) {
    const auto event =
        parse_event(arguments, std::getenv("EGRESS_SECONDS"), std::getenv("EGRESS_ACTION"));
    if (!event) {
        complain(event.error());
        if (event.error().code == EINVAL) {
            fmt::print(stderr, "{}", usage);
            return wrong_usage;
        }
        return failed;
    }
    if (const auto done = perform(*event); !done) {
        return complain(done.error());
    }
    // No handle follows: the address is enough for rem, and add replaces what is there.
    fmt::print("OK\n");
    return std::fflush(stdout) == 0 ? EXIT_SUCCESS : failed;
}

/// For the removal of egress: deletes its table from the firewall.
int clear() {
    auto table = Table::open();
    if (!table) {
        return complain(table.error());
    }
    if (const auto done = table->clear(); !done) {
        return complain(done.error());
    }
    fmt::print("OK\n");
    return std::fflush(stdout) == 0 ? EXIT_SUCCESS : failed;
}

int run(std::span<const char* const> arguments) {
    const std::string_view first = arguments.empty() ? "" : arguments[0];
    if (first == "--help" || first == "-h") {
        fmt::print("{}{}", usage, help);
        return EXIT_SUCCESS;
    }
    if (first == "--version") {
        fmt::print("egress-helper {}\n", EGRESS_VERSION);
        return EXIT_SUCCESS;
    }
    reset_signals();
    keep_only_net_admin();
    if (first == "clear" && arguments.size() == 1) {
        return clear();
    }
    return first == "serve" && arguments.size() == 1 ? serve() : one_event(arguments);
}

} // namespace

} // namespace egress::helper

int main(int argc, char** argv) {
    return egress::helper::run({argv + (argc > 0 ? 1 : 0), argv + argc});
}
