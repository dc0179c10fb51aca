#include "daemon/policy/egress/time.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <ctime>

#include <fmt/format.h>

namespace egress::policy {

namespace {

constexpr std::array<std::string_view, 7> day_names = {"Mon", "Tue", "Wed", "Thu",
                                                       "Fri", "Sat", "Sun"};
constexpr std::uint16_t day_minutes = 1440;
constexpr std::int64_t last_second = 253402300799; // of the year 9999
constexpr const char* window_hint = "as in Mon-Fri/08:00-18:00, Sat+Sun or 22:00-06:00";
constexpr const char* instant_hint =
    "as in 2026-12-01T08:00:00Z, 2026-12-01T08:00+01:00, 2026-12-01T08:00 or 2026-12-01";

bool same_letters(std::string_view a, std::string_view b) {
    return std::ranges::equal(a, b, [](char x, char y) { return (x | 0x20) == (y | 0x20); });
}

std::optional<std::size_t> parse_day(const Cell& cell, const Context& context) {
    const auto same = [&](std::string_view name) { return same_letters(name, cell.text); };
    const auto at = std::ranges::find_if(day_names, same);
    if (at == day_names.end()) {
        return context.error(
            cell, fmt::format("unknown day {}", quote(cell.text)),
            suggestion(cell.text, day_names, "days are Mon, Tue, Wed, Thu, Fri, Sat and Sun"));
    }
    return static_cast<std::size_t>(at - day_names.begin());
}

/// "Mon-Fri+Sun"; "Sat-Mon" wraps around the end of the week.
std::optional<std::bitset<7>> parse_days(const Cell& cell, const Context& context) {
    std::bitset<7> days;
    for (std::size_t at = 0; at <= cell.text.size();) {
        const Cell item = cell.part(at).before('+');
        at += item.text.size() + 1;
        const Cell begin = item.before('-');
        const bool range = begin.text.size() < item.text.size();
        const auto first = parse_day(begin, context);
        const auto last = range ? parse_day(item.part(begin.text.size() + 1), context) : first;
        if (!first || !last) {
            return std::nullopt;
        }
        for (std::size_t day = *first; days.set(day), day != *last; day = (day + 1) % 7) {
        }
    }
    return days;
}

/// Removes `count` digits from the front of `text` and returns their value; -1: there are fewer.
int take_digits(std::string_view& text, std::size_t count) {
    int value = -1;
    const auto digits = text.substr(0, count);
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    if (digits.size() == count && std::ranges::all_of(digits, digit)) {
        std::from_chars(digits.data(), digits.data() + count, value);
        text.remove_prefix(count);
    }
    return value;
}

bool take(std::string_view& text, char c) {
    const bool there = text.starts_with(c);
    text.remove_prefix(there ? 1 : 0);
    return there;
}

/// "HH:MM" in minutes; -1: it is not one.
int take_time(std::string_view& text) {
    const int hour = take_digits(text, 2);
    const int minute = take(text, ':') ? take_digits(text, 2) : -1;
    const bool good = hour >= 0 && minute >= 0 && minute < 60 && hour * 60 + minute <= day_minutes;
    return good ? hour * 60 + minute : -1;
}

/// A date and a time of day.
struct Instant {
    std::chrono::year_month_day date;
    int minute = 0;
    int second = 0;
    std::optional<int> offset; // minutes east of Greenwich; nullopt: local time
};

/// "Z", "+01:00" or no text.
bool take_offset(std::string_view& text, Instant& out) {
    if (take(text, 'Z') || take(text, 'z')) {
        out.offset = 0;
        return true;
    }
    if (!text.starts_with('+') && !text.starts_with('-')) {
        return true;
    }
    const int sign = text[0] == '-' ? -1 : 1;
    text.remove_prefix(1);
    const int offset = take_time(text);
    out.offset = sign * offset;
    return offset >= 0 && offset < day_minutes;
}

/// RFC 3339, section 5.6, without fractions; the seconds and the offset may be left out.
std::optional<Instant> read_instant(std::string_view text) {
    Instant out;
    const int year = take_digits(text, 4);
    const int month = take(text, '-') ? take_digits(text, 2) : -1;
    const int day = take(text, '-') ? take_digits(text, 2) : -1;
    if (year < 0 || month < 0 || day < 0) {
        return std::nullopt;
    }
    out.date = std::chrono::year(year) / month / day;
    if (text.empty()) {
        return out.date.ok() ? std::optional(out) : std::nullopt;
    }
    if (!take(text, 'T') && !take(text, 't')) {
        return std::nullopt;
    }
    out.minute = take_time(text);
    if (take(text, ':')) {
        out.second = take_digits(text, 2);
    }
    const bool good = out.minute >= 0 && out.minute < day_minutes && out.second >= 0 &&
                      out.second < 60 && take_offset(text, out);
    return good && text.empty() && out.date.ok() ? std::optional(out) : std::nullopt;
}

std::int64_t seconds_of(const Instant& instant) {
    if (instant.offset) {
        const std::int64_t days = std::chrono::sys_days(instant.date).time_since_epoch().count();
        return days * 86400 + (instant.minute - *instant.offset) * 60 + instant.second;
    }
    std::tm tm{};
    tm.tm_year = static_cast<int>(instant.date.year()) - 1900;
    tm.tm_mon = static_cast<int>(static_cast<unsigned>(instant.date.month())) - 1;
    tm.tm_mday = static_cast<int>(static_cast<unsigned>(instant.date.day()));
    tm.tm_hour = instant.minute / 60;
    tm.tm_min = instant.minute % 60;
    tm.tm_sec = instant.second;
    tm.tm_isdst = -1;
    return std::mktime(&tm);
}

std::string print_days(const std::bitset<7>& days) {
    std::string out;
    for (std::size_t day = 0; day < 7; ++day) {
        if (!days[day]) {
            continue;
        }
        std::size_t last = day;
        while (last + 1 < 7 && days[last + 1]) {
            ++last;
        }
        out += out.empty() ? "" : "+";
        out += day_names[day];
        if (last != day) {
            out += fmt::format("-{}", day_names[last]);
        }
        day = last;
    }
    return out;
}

} // namespace

std::optional<Window> parse_window(const Cell& cell, const Context& context) {
    const Cell first = cell.before('/');
    const bool both = first.text.size() < cell.text.size();
    const bool only_time =
        !both && !cell.text.empty() && cell.text[0] >= '0' && cell.text[0] <= '9';
    Window out;
    out.days.set();
    if (!only_time) {
        const auto days = parse_days(first, context);
        if (!days) {
            return std::nullopt;
        }
        out.days = *days;
        if (!both) {
            return out;
        }
    }
    const Cell time = only_time ? cell : cell.part(first.text.size() + 1);
    auto text = time.text;
    const int from = take_time(text);
    int to = take(text, '-') ? take_time(text) : -1;
    if (from < 0 || from == day_minutes || to < 0 || !text.empty()) {
        return context.error(time, fmt::format("bad times {}", quote(time.text)), window_hint);
    }
    to = to == 0 ? day_minutes : to;
    out.from = static_cast<std::uint16_t>(from);
    out.to = static_cast<std::uint16_t>(to);
    return out;
}

std::string print_window(const Window& window) {
    const auto time = fmt::format("{:02}:{:02}-{:02}:{:02}", window.from / 60, window.from % 60,
                                  window.to / 60, window.to % 60);
    const bool whole = window.from == 0 && window.to == day_minutes;
    return window.days.all() ? time
           : whole           ? print_days(window.days)
                             : print_days(window.days) + "/" + time;
}

std::optional<std::int64_t> parse_instant(const Cell& cell, const Context& context) {
    const auto instant = read_instant(cell.text);
    if (!instant) {
        return context.error(cell, fmt::format("bad time {}", quote(cell.text)), instant_hint);
    }
    const auto seconds = seconds_of(*instant);
    if (seconds < 0 || seconds > last_second) {
        return context.error(cell, fmt::format("time {} is out of range", quote(cell.text)),
                             "the years 1970 to 9999 are possible");
    }
    return seconds;
}

std::string print_instant(std::int64_t seconds) {
    using namespace std::chrono;
    const auto days = floor<std::chrono::days>(sys_seconds(std::chrono::seconds(seconds)));
    const year_month_day date(days);
    const auto rest = seconds - days.time_since_epoch().count() * 86400;
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(date.year()),
                       static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                       rest / 3600, rest / 60 % 60, rest % 60);
}

} // namespace egress::policy
