// What the firewall's two contracts share, and the job of the older one.
#pragma once

#include <algorithm>
#include <ctime>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <sys/wait.h>

#include "daemon/firewall/firewall.h"

namespace egress {

/// One process of the per-event contract: what it was asked, and its first line of output.
struct Firewall::Job {
    Key key;
    bool add = false;
    bool flush = false;
    bool again = false; ///< the key was touched while this ran
    std::int64_t started = 0;
    bool answered = false;
    std::string answer;
    std::unique_ptr<Child> child;
};

/// Monotonic milliseconds.
inline std::int64_t now_ms() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

/// A helper's handle goes into the database and back to the helper: one printable word, or nothing.
inline std::string_view handle_of(std::string_view text) {
    constexpr std::size_t most = 255;
    const auto plain = [](char c) { return c > 0x20 && c < 0x7f; };
    return text.size() <= most && std::ranges::all_of(text, plain) ? text : std::string_view();
}

/// How a child ended, in words.
inline std::string end_of(int status) {
    if (WIFSIGNALED(status)) {
        return fmt::format("was killed by signal {}", WTERMSIG(status));
    }
    return fmt::format("exited with status {}", WEXITSTATUS(status));
}

} // namespace egress
