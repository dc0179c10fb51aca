// Decides which events of the kernel side are logged: local users control how many there are.
//
// Each kind has a log of its own, alarms first. Within a minute each rule has a share per user,
// each user a share for all rules, and all users but root share a total, with a part reserved for
// users who have logged little. Events beyond that are counted exactly, by user and rule, and the
// count is logged at the end of the minute as a JSON object with the one key "summary". The tables
// are bounded: an event that finds no row is not logged, and is counted in a summary for all.
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

    /// Lines of log that a minute may have.
    struct Limits {
        unsigned of_line = 0;       ///< for one rule and one user
        unsigned of_user = 0;       ///< for one user, all rules
        unsigned all = 0;           ///< for all users but root
        unsigned first_of_user = 0; ///< each user's first lines ...
        unsigned all_first = 0;     ///< ... count against this part instead of `all`
    };
    static constexpr std::size_t most_users = 4'096;   ///< that are counted separately in a minute
    static constexpr std::size_t most_lines = 64;      ///< rules of one user, likewise
    static constexpr std::size_t most_summaries = 200; ///< of one kind, and one more for the rest
    static constexpr unsigned first_of_line = 3;       ///< allowed even beyond the user's share
    static constexpr unsigned beyond_user = 60;        ///< by how many lines
    static constexpr Seconds window = 60;
    static Limits limits_of(Kind kind);

    struct Event {
        Kind kind = Kind::blocked;
        std::uint32_t uid = 0;
        std::uint64_t generation = 0; ///< with `line`: identifies the rule
        std::uint32_t line = 0;
        std::uint64_t checks = 1; ///< checks that it stands for
        std::string_view rule{};  ///< place of the rule; empty: none matched
    };
    struct Counters {
        std::uint64_t written = 0;
        std::uint64_t summed_up = 0; ///< counted in summaries instead
        std::uint64_t checks = 0;    ///< of all events taken, also those below the log's level
    };

    /// Returns false if there is no room for the line now.
    using Write = std::function<bool(Kind kind, const std::string& line)>;
    EventLog(const Clock& clock, const OwnerNames& names, Write write)
        : clock_(clock), names_(names), write_(std::move(write)) {}

    /// Writes a line to the daemon's log at the kind's level.
    static bool write_line(Kind kind, const std::string& line);
    void take(const EventView& event) override;
    /// `text` is called where the event is written.
    void add(const Event& event, const std::function<std::string()>& text);
    /// Call it once a second.
    void tick();
    /// Logs all pending summaries; call it at the end.
    void flush();
    const Counters& counters(Kind kind) const { return counters_[static_cast<std::size_t>(kind)]; }

  private:
    struct Share {
        unsigned written = 0;
        std::uint64_t events = 0; ///< events not logged
        std::uint64_t checks = 0; ///< checks that those stand for
        std::int64_t since = 0;   ///< time of the first of them, wall-clock seconds
        std::string rule;
        void miss(std::uint64_t more_checks, std::int64_t now);
        void take(const Share& other);
    };
    struct User {
        unsigned written = 0;
        std::map<std::pair<std::uint64_t, std::uint32_t>, Share> lines; ///< by generation and rule
        Share rest;                                                     ///< rules that found no row
    };
    struct Window {
        Moment start = never;
        unsigned all = 0;
        unsigned all_first = 0;
        std::map<std::uint32_t, User> users;
        Share rest; ///< users that found no row, and summaries that found no room
    };
    enum class Scope { line, user, all };

    bool is_free(const Limits& limits, Window& in, std::uint32_t uid, const User& user,
                 const Share& share) const;
    void settle(Kind kind);
    bool write_summary(Kind kind, Scope scope, std::uint32_t uid, const Share& share);

    const Clock& clock_;
    const OwnerNames& names_;
    Write write_;
    std::array<Window, kinds> windows_;
    std::array<Counters, kinds> counters_{};
};

} // namespace egress
