// What the firewall asks of its helper, in either contract, and what both share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <sys/wait.h>

#include "daemon/count/table.h"

namespace egress {

struct HelperRequest {
    enum class Kind : std::uint8_t { add, rem, kill, names, list, sync, flush, exempt };
    Kind kind = Kind::add;
    Key key;                   ///< of add, rem and kill
    std::string name;          ///< of list, sync and flush
    std::int64_t asked_at = 0; ///< monotonic milliseconds

    bool changes_a_block() const { return kind == Kind::add || kind == Kind::rem; }
};

/// A helper that gives no sign of life so long, while it is asked something, hangs; milliseconds.
inline constexpr std::int64_t hang_ms = 10'000;

/// Monotonic milliseconds.
inline std::int64_t now_ms() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

/// A helper's handle goes into the database and back to the helper: one printable word, or none.
inline std::string_view handle_of(std::string_view text) {
    constexpr std::size_t most = 255;
    const auto plain = [](char c) { return c > 0x20 && c < 0x7f; };
    return text.size() <= most && std::ranges::all_of(text, plain) ? text : std::string_view();
}

/// What helpers get of the daemon's own environment: "NAME=value" entries.
inline std::vector<std::string> helper_environment() {
    const char* const counters = std::getenv("EGRESS_COUNTERS");
    return counters == nullptr ? std::vector<std::string>{}
                               : std::vector{fmt::format("EGRESS_COUNTERS={}", counters)};
}

/// How a child ended, in words.
inline std::string end_of(int status) {
    if (WIFSIGNALED(status)) {
        return fmt::format("was killed by signal {}", WTERMSIG(status));
    }
    return fmt::format("exited with status {}", WEXITSTATUS(status));
}

} // namespace egress
