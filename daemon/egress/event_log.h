// Which events of the kernel half are written to the log: local users decide how many there are.
//
// Each kind has a log of its own, alarms first. Within a minute a line of the rules has a share of
// each user, a user has one of all, and all users but root share the rest, with a part that is for
// those who have written little. What goes beyond is counted, exactly, by user and line, and told
// when the minute is over, as a JSON object with the one key "summary". The tables are bounded:
// what finds no row in them is not written, and counted for all.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/egress/event_sinks.h"

namespace egress {

class EventLog final : public EventSink {
  public:
    enum class Kind : std::uint8_t { alarm, blocked, monitored, allowed, unmatched, selftest };
    static constexpr std::size_t kinds = 6;
    static constexpr std::array<const char*, kinds> kind_names = {
        "alarm", "blocked", "monitored", "allowed", "unmatched", "selftest"};

    /// Lines that a minute may have.
    struct Limits {
        unsigned of_line = 0;       ///< of one user
        unsigned of_user = 0;       ///< of all his lines
        unsigned all = 0;           ///< of all users but root
        unsigned first_of_user = 0; ///< of these each user has so many ...
        unsigned all_first = 0;     ///< ... out of another part
    };
    static constexpr std::size_t most_users = 4'096;   ///< that are told apart in a minute
    static constexpr std::size_t most_lines = 64;      ///< of one user, the same
    static constexpr std::size_t most_summaries = 200; ///< of one kind, beside one for the rest
    static constexpr unsigned first_of_line = 3;       ///< beyond the user's share, too
    static constexpr unsigned beyond_user = 60;        ///< how far
    static constexpr Seconds window = 60;
    static Limits limits_of(Kind kind);

    struct Event {
        Kind kind = Kind::blocked;
        std::uint32_t uid = 0;
        std::uint64_t generation = 0; ///< with `line`: which line of the rules
        std::uint32_t line = 0;
        std::uint64_t looks = 1; ///< that it stands for
        std::string_view rule{}; ///< where the line stands; empty: none matched
    };
    struct Counters {
        std::uint64_t written = 0;
        std::uint64_t summed_up = 0; ///< not written one by one
    };

    /// False: there is no room for it now.
    using Write = std::function<bool(Kind kind, const std::string& line)>;
    EventLog(const Clock& clock, const OwnerNames& names, Write write)
        : clock_(clock), names_(names), write_(std::move(write)) {}

    /// Writes a line to the daemon's log at the kind's level.
    static bool write_line(Kind kind, const std::string& line);
    void take(const EventView& event) override;
    /// `text` is called where the event is written.
    void add(const Event& event, const std::function<std::string()>& text);
    /// Once a second.
    void tick();
    /// Tells what is not told yet; at the end.
    void flush();
    const Counters& counters(Kind kind) const { return counters_[static_cast<std::size_t>(kind)]; }

  private:
    struct Share {
        unsigned written = 0;
        std::uint64_t events = 0; ///< not written
        std::uint64_t looks = 0;  ///< that those stand for
        std::int64_t since = 0;   ///< the first of them, wall-clock seconds
        std::string rule;
        void miss(std::uint64_t looks_more, std::int64_t now);
        void take(const Share& other);
    };
    struct User {
        unsigned written = 0;
        std::map<std::pair<std::uint64_t, std::uint32_t>, Share> lines; ///< by generation and line
        Share rest;                                                     ///< lines that found no row
    };
    struct Window {
        Moment start = never;
        unsigned all = 0;
        unsigned all_first = 0;
        std::map<std::uint32_t, User> users;
        Share rest; ///< users that found no row, and what could not be told
    };
    enum class Scope { line, user, all };

    bool is_free(const Limits& limits, Window& in, std::uint32_t uid, const User& user,
                 const Share& share) const;
    void settle(Kind kind);
    bool tell(Kind kind, Scope scope, std::uint32_t uid, const Share& share);

    const Clock& clock_;
    const OwnerNames& names_;
    Write write_;
    std::array<Window, kinds> windows_;
    std::array<Counters, kinds> counters_{};
};

} // namespace egress
