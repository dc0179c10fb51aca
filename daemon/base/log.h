// The log: the journal with fields if it is available, else syslog, else standard error.
//
// Escape text from outside with escape(), only. A message that repeats is folded: the first is
// written at once, then one line with the count when the message changes or once a minute. Only the
// loop's thread logs; the store's writer hands its errors over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "daemon/base/clock.h"

namespace egress {

/// Keeps printable ASCII and valid printable UTF-8; writes the rest as \n, \t, \xHH and doubles a
/// backslash. Cuts at `limit` bytes and appends "...".
std::string escape(std::string_view text, std::size_t limit = 256);
/// The same in double quotes, which the text cannot end.
std::string quoted(std::string_view text, std::size_t limit = 256);

namespace log {

/// syslog's levels.
enum class Level : int { error = 3, warning = 4, notice = 5, info = 6, debug = 7 };

/// Destination of the log; see open().
enum class Target { standard_error, journal, syslog };

/// Call once before the first message; the default is standard error.
void open(Target target, Level threshold);
/// True if standard error is the journal's stream, which adds the program's name itself.
bool error_is_journal();
/// The journal if its socket exists, else syslog if /dev/log exists, else standard error.
Target best_target();
Level threshold();

/// A journal field, such as {"EGRESS_ADDRESS", "192.0.2.1"}; both already escaped.
using Field = std::pair<std::string_view, std::string>;
using Fields = std::vector<Field>;

/// `key` groups repeats (a message id such as "report-refused"), `text` is one escaped line. The
/// journal gets the key as EGRESS_EVENT and the `fields`; other targets get only the line.
void write(Level level, std::string_view key, std::string_view text, const Fields& fields = {});
/// Writes a line that is never folded: it has a meaning of its own, and the caller has counted it.
/// False: the log is full, the line is dropped. Urgent lines have a queue of their own and go
/// first. A line below the threshold is dropped too, but returns true.
bool write_whole(Level level, std::string_view key, std::string text, bool urgent);
/// Writes the pending "repeated N times" lines; the loop calls it once a minute and at the end.
void flush();

/// From now on a thread writes the lines, because a full journal or pipe would block the loop.
/// Lines that do not fit its queue are counted, and the number is logged once there is room again.
void start_thread();
/// Writes the queued lines, for two seconds at most, and ends the thread.
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
