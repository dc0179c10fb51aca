// What every command works with: output streams, the daemon's socket, exit status.
//
// The owner (main, or a test) provides streams, clock and settings; commands own nothing.
#pragma once

#include <cstdint>
#include <cstdio>
#include <expected>
#include <string>

namespace egress {
class Clock;
}

namespace egress::ctl {

/// Exit status of egressctl; documented in egressctl(8), scripts rely on it.
enum class Exit : int {
    ok = 0,
    no = 1,          ///< the answer is no: nothing found, errors found, refused by the daemon
    usage = 2,       ///< the command line is wrong
    unreachable = 3, ///< the daemon, the database or a file cannot be reached or read
};

/// Why a command ends early. The text is one line, printable, and says what to do.
struct Failure {
    Exit status = Exit::unreachable;
    std::string text;
    bool no_daemon = false; ///< no daemon listens at the socket
    bool cut = false;       ///< it hung up in the middle of its answer
};

template <typename T>
using Outcome = std::expected<T, Failure>;

/// The failure of an option's value, with the option named in front.
inline Failure about(std::string_view option, Failure failure) {
    failure.text = std::string(option) + ": " + failure.text;
    return failure;
}

inline std::unexpected<Failure> fail(Exit status, std::string text) {
    return std::unexpected(Failure{status, std::move(text)});
}

struct Context {
    std::FILE* out = stdout;
    std::FILE* err = stderr;
    std::FILE* in = stdin;
    const Clock* clock = nullptr; ///< never null while a command runs
    std::string socket;           ///< of the daemon's control API
    std::string pins;             ///< pins of the kernel side
    long timeout_ms = 30'000;     ///< for one whole exchange with the daemon
    bool json = false;            ///< --json
};

} // namespace egress::ctl
