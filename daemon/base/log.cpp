#include "daemon/base/log.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

#include "daemon/base/journal.h"
#include "daemon/base/worker.h"
#include "lib/utf8.h"

namespace egress {

std::string escape(std::string_view text, std::size_t limit) {
    std::string out;
    out.reserve(std::min(text.size(), limit) + 8);
    while (!text.empty()) {
        std::string piece;
        const auto character = utf8::first(text);
        const bool harmless = character.length > 0 && !utf8::is_harmful(character.point);
        const std::size_t taken = harmless ? character.length : 1;
        if (harmless) {
            piece = text[0] == '\\' ? "\\\\" : std::string(text.substr(0, taken));
        } else {
            const auto byte = static_cast<unsigned char>(text[0]);
            piece = byte == '\n' ? "\\n" : byte == '\t' ? "\\t" : fmt::format("\\x{:02x}", byte);
        }
        if (out.size() + piece.size() > limit) {
            return out + "...";
        }
        out += piece;
        text.remove_prefix(taken);
    }
    return out;
}

std::string quoted(std::string_view text, std::size_t limit) {
    std::string out = "\"";
    for (const char c : escape(text, limit)) {
        out += c == '"' ? "\\\"" : std::string(1, c);
    }
    return out + '"';
}

namespace log {

namespace {

constexpr std::int64_t fold_seconds = 60;
// The keys are constants of ours, so this is never reached in practice.
constexpr std::size_t folds_max = 256;

struct Fold {
    std::string text;
    Level level = Level::info;
    std::uint64_t repeats = 0;
    std::int64_t window_start = 0;
    unsigned in_window = 0;
};

struct State {
    Target target = Target::standard_error;
    Level threshold = Level::info;
    std::map<std::string, Fold, std::less<>> folds;
};

State& state() {
    static State instance;
    return instance;
}

std::int64_t seconds() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return now.tv_sec;
}

SendJournal send_journal = nullptr;

void to_journal(Level level, std::string_view key, std::string_view text, const Fields& fields) {
    std::vector<std::string> lines = {
        fmt::format("MESSAGE={}", text), fmt::format("PRIORITY={}", static_cast<int>(level)),
        fmt::format("EGRESS_EVENT={}", key), "SYSLOG_IDENTIFIER=egressd"};
    for (const auto& [name, value] : fields) {
        lines.push_back(fmt::format("{}={}", name, value));
    }
    std::vector<iovec> parts;
    for (auto& line : lines) {
        parts.push_back({line.data(), line.size()});
    }
    if (send_journal != nullptr) {
        send_journal(parts.data(), static_cast<int>(parts.size()));
    }
}

struct Line {
    Level level = Level::info;
    std::string key;
    std::string text;
    Fields fields;
};

void put(Target target, const Line& line_of) {
    const auto& [level, key, text, fields] = line_of;
    switch (target) {
    case Target::journal:
        to_journal(level, key, text, fields);
        break;
    case Target::syslog:
        syslog(static_cast<int>(level), "%.*s", static_cast<int>(text.size()), text.data());
        break;
    case Target::standard_error: {
        static constexpr std::array<std::string_view, 8> names = {
            "emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"};
        static const bool named = error_is_journal();
        const auto number = static_cast<std::size_t>(level);
        const std::string line = named ? fmt::format("<{}>{}\n", number, text) // sd-daemon(3)
                                       : fmt::format("egressd: {}: {}\n", names[number], text);
        [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size());
        break;
    }
    }
}

/// The writing thread and its queued lines.
struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Line> urgent; ///< written first
    std::deque<Line> lines;
    std::uint64_t lost = 0;
    bool stop = false;
    bool done = false;

    void run(Target target) {
        std::unique_lock lock(mutex);
        while (true) {
            changed.wait(lock, [this] { return stop || !urgent.empty() || !lines.empty(); });
            if (urgent.empty() && lines.empty()) {
                break;
            }
            auto& from = urgent.empty() ? lines : urgent;
            const Line line = std::move(from.front());
            from.pop_front();
            const auto missing = std::exchange(lost, 0);
            lock.unlock();
            put(target, line);
            if (missing > 0) {
                put(target, {Level::warning,
                             "log",
                             fmt::format("{} lines of the log were lost: it was full", missing),
                             {}});
            }
            lock.lock();
        }
        done = true;
        changed.notify_all();
    }
};

std::shared_ptr<Queue>& queue() {
    static std::shared_ptr<Queue> instance;
    return instance;
}

constexpr std::size_t most_lines = 4096;
constexpr std::size_t most_whole = most_lines / 2; // keep room for lines not counted elsewhere
constexpr std::size_t most_urgent = 2048;

void emit(Level level, std::string_view key, std::string_view text, const Fields& fields) {
    Line line{level, std::string(key), std::string(text), fields};
    const auto to = queue();
    if (!to) {
        put(state().target, line);
        return;
    }
    const std::scoped_lock lock(to->mutex);
    if (to->lines.size() >= most_lines) {
        to->lost += 1;
        return;
    }
    to->lines.push_back(std::move(line));
    to->changed.notify_one();
}

void settle(std::string_view key, Fold& fold) {
    if (fold.repeats > 0) {
        emit(fold.level, key, fmt::format("{} (and {} more like it)", fold.text, fold.repeats), {});
        fold.repeats = 0;
    }
}

} // namespace

void open(Target target, Level threshold) {
    state().target = target;
    state().threshold = threshold;
    if (target == Target::syslog) {
        openlog("egressd", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    }
}

void use_journal(SendJournal send) {
    send_journal = send;
}

bool error_is_journal() {
    const char* const stream = std::getenv("JOURNAL_STREAM"); // "DEVICE:INODE", systemd.exec(5)
    struct stat error {};
    return stream != nullptr && fstat(STDERR_FILENO, &error) == 0 &&
           stream == fmt::format("{}:{}", error.st_dev, error.st_ino);
}

Target best_target() {
    if (access("/run/systemd/journal/socket", W_OK) == 0) {
        return Target::journal;
    }
    return access("/dev/log", W_OK) == 0 ? Target::syslog : Target::standard_error;
}

Level threshold() {
    return state().threshold;
}

void write(Level level, std::string_view key, std::string_view text, const Fields& fields) {
    if (level > state().threshold) {
        return;
    }
    auto& folds = state().folds;
    auto found = folds.find(key);
    if (found == folds.end()) {
        if (folds.size() >= folds_max) {
            emit(level, key, text, fields);
            return;
        }
        found = folds.emplace(std::string(key), Fold{}).first;
    }
    // A key may write a few lines a minute unfolded; the rest is folded.
    constexpr unsigned at_once = 10;
    Fold& fold = found->second;
    const auto now = seconds();
    if (now - fold.window_start >= fold_seconds) {
        settle(key, fold);
        fold.window_start = now;
        fold.in_window = 0;
    }
    const unsigned allowed =
        level <= Level::notice || level == Level::debug ? at_once * 10 : at_once;
    if (fold.in_window < allowed && !(fold.in_window > 0 && fold.text == text)) {
        fold.in_window += 1;
        settle(key, fold);
        emit(level, key, text, fields);
    } else {
        fold.repeats += 1;
    }
    fold.text = text;
    fold.level = level;
}

bool write_whole(Level level, std::string_view key, std::string text, bool urgent) {
    if (level > state().threshold) {
        return true;
    }
    Line line{level, std::string(key), std::move(text), {}};
    const auto to = queue();
    if (!to) {
        put(state().target, line);
        return true;
    }
    const std::scoped_lock lock(to->mutex);
    auto& lines = urgent ? to->urgent : to->lines;
    if (lines.size() >= (urgent ? most_urgent : most_whole)) {
        return false;
    }
    lines.push_back(std::move(line));
    to->changed.notify_one();
    return true;
}

void flush() {
    for (auto& [key, fold] : state().folds) {
        settle(key, fold);
    }
}

void start_thread() {
    auto fresh = std::make_shared<Queue>();
    auto worker = Worker::start("egressd-log", [fresh, to = state().target] { fresh->run(to); });
    if (worker) { // else the loop keeps writing by itself
        worker->detach();
        queue() = fresh;
    }
}

void stop_thread() {
    const auto ending = std::exchange(queue(), nullptr);
    if (!ending) {
        return;
    }
    std::unique_lock lock(ending->mutex);
    ending->stop = true;
    ending->changed.notify_all();
    // If the log is stuck, the thread stays until the process ends.
    ending->changed.wait_for(lock, std::chrono::seconds(2), [&] { return ending->done; });
}

} // namespace log
} // namespace egress
