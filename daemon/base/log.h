// The log: the journal with fields when it is there, else syslog, else standard error.
//
// Text that came from outside goes through escape() and nothing else; a message that repeats is
// folded: the first is written at once, then one line with the count when it changes or once a
// minute. One thread (the loop's) logs; the store's writer hands its errors over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "daemon/base/clock.h"

namespace egress {

/// Printable ASCII and valid printable UTF-8 stay; everything else becomes \n, \t, \xHH; a
/// backslash becomes two. Cut at `limit` bytes with "..." behind.
std::string escape(std::string_view text, std::size_t limit = 256);

namespace log {

/// syslog's levels.
enum class Level : int { error = 3, warning = 4, notice = 5, info = 6, debug = 7 };

/// Where the log goes. Call once before the first message; the default is standard error.
enum class Target { standard_error, journal, syslog };

void open(Target target, Level threshold);
/// The journal when its socket is there, else syslog when /dev/log is, else standard error.
Target best_target();
Level threshold();

/// A journal field, such as {"EGRESS_ADDRESS", "192.0.2.1"}; both already safe.
using Field = std::pair<std::string_view, std::string>;
using Fields = std::vector<Field>;

/// `key` groups repeats (a message id such as "report-refused"), `text` is one safe line. The
/// journal gets the key as EGRESS_EVENT and `fields` beside it; elsewhere only the line is written.
void write(Level level, std::string_view key, std::string_view text, const Fields& fields = {});
/// A line that is never folded, because it means something by itself and has been counted already.
/// False: the log has no room for it, nothing is written. Urgent ones have room of their own, and
/// go first. One below the threshold is not written, which is no lack of room.
bool write_whole(Level level, std::string_view key, std::string text, bool urgent);
/// Writes the pending "repeated N times" lines; called by the loop once a minute and at the end.
void flush();

/// From here on a thread writes, because a journal or a pipe that is full would hold up the loop.
/// Lines that it cannot take are counted, and the number is logged when it can again.
void start_thread();
/// Writes what is queued, for a moment at most, and ends the thread.
void stop_thread();

template <typename... Args>
void error(std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
    write(Level::error, key, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
    write(Level::warning, key, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void notice(std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
    write(Level::notice, key, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
    if (threshold() >= Level::info) {
        write(Level::info, key, fmt::format(format, std::forward<Args>(args)...));
    }
}
template <typename... Args>
void debug(std::string_view key, fmt::format_string<Args...> format, Args&&... args) {
    if (threshold() >= Level::debug) {
        write(Level::debug, key, fmt::format(format, std::forward<Args>(args)...));
    }
}

} // namespace log
} // namespace egress
