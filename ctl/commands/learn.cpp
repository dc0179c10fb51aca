// learn: the lines of [egress] that the traffic seen by the kernel side needs. Reads the database,
// without the daemon; who may not read it gets the same from the daemon.

#include <cerrno>

#include "ctl/commands/commands.h"
#include "ctl/lessons.h"
#include "ctl/out.h"
#include "ctl/row_source.h"
#include "ctl/values.h"
#include "daemon/base/clock.h"
#include "daemon/base/protocol.h"
#include "daemon/policy/print/print.h"
#include "daemon/store/env.h"
#include "daemon/store/json.h"
#include "egress-paths.h"

namespace egress::ctl {

namespace {

/// The contents of the database, by kind.
struct Record {
    std::vector<store::EventRow> rows; ///< to learn from
    std::uint64_t events = 0;          ///< that the rows count
    std::uint64_t refused = 0;         ///< refused, and left out
    std::uint64_t unknown = 0;         ///< events without a row of their own
    std::uint64_t damaged = 0;         ///< rows that cannot be read
};

/// Which rows to learn from.
struct Wanted {
    std::optional<std::int64_t> since; ///< wall-clock seconds
    bool refused = false;
};

void add(Record& record, store::EventRow&& row, const Wanted& wanted) {
    if (wanted.since && row.last < *wanted.since) {
        return;
    }
    if (row.action == store::EventRow::Action::blocked && !wanted.refused) {
        record.refused += row.count;
    } else if ((row.flags & store::EventRow::overflow) != 0) {
        record.unknown += row.count;
    } else {
        record.events += row.count;
        record.rows.push_back(std::move(row));
    }
}

Result<Record> read(const std::string& directory, const Wanted& wanted) {
    if (auto readable = store::probe(directory); !readable) {
        return std::unexpected(readable.error());
    }
    const auto env = store::Env::open(directory, store::Env::Mode::read_only);
    if (!env) {
        return std::unexpected(env.error());
    }
    Record record;
    const auto damaged = [&](store::Damage&&) { ++record.damaged; };
    auto walked = env->each_event(
        [&](store::EventRow&& row) {
            add(record, std::move(row), wanted);
            return true;
        },
        damaged);
    if (!walked) {
        return std::unexpected(walked.error());
    }
    return record;
}

/// Members of the daemon's group may not read its files, but may ask it.
Outcome<Record> read_from_daemon(const Context& context, const Wanted& wanted,
                                 const Error& refused) {
    Record record;
    const auto told = traffic_of_daemon(
        context, [&](store::EventRow&& row) { add(record, std::move(row), wanted); });
    if (!told) {
        auto failure = unreadable_database(refused);
        failure.text += "; " + told.error().text;
        return std::unexpected(std::move(failure));
    }
    record.damaged = *told;
    return record;
}

Outcome<Record> record_of(const Context& context, const Arguments& arguments,
                          const Wanted& wanted) {
    const auto* const given = arguments.value("D");
    auto record = read(given != nullptr ? *given : EGRESS_DB_DIR, wanted);
    if (record) {
        return std::move(*record);
    }
    const auto code = record.error().code;
    return given == nullptr && (code == EACCES || code == EPERM)
               ? read_from_daemon(context, wanted, record.error())
               : std::unexpected(unreadable_database(record.error()));
}

/// "12 times, last 2026-11-22T12:00:00Z, for 9 addresses, refused by egress.conf:9:1"
std::string comment_of(const Lesson& lesson) {
    auto text = fmt::format("{} times, last {}", lesson.count, store::iso_time(lesson.last));
    if (!lesson.remark.empty()) {
        text += ", " + lesson.remark;
    }
    if (!lesson.refusing.empty()) {
        text += fmt::format(", refused by {}", printable(*lesson.refusing.begin()));
        if (lesson.refusing.size() > 1) {
            text += fmt::format(" and {} more", lesson.refusing.size() - 1);
        }
    }
    return text;
}

void print_text(const Context& context, const std::vector<Lesson>& lessons, const Record& record) {
    print(
        context.out,
        "# {} events seen. A line is for the user, whatever the group, and for the program on the "
        "host\n# and, where the same file is seen there, in containers.\n",
        record.events);
    if (record.unknown > 0) {
        print(context.out,
              "# {} events more found no room in the record: lines are missing here.\n",
              record.unknown);
    }
    if (record.refused > 0) {
        print(context.out, "# {} refused ones are left out (--refused).\n", record.refused);
    }
    print(context.out, "[egress]\n");
    std::size_t widest = 0;
    for (const auto& lesson : lessons) {
        widest = std::max(widest, std::min<std::size_t>(lesson.line.size(), 72));
    }
    for (const auto& lesson : lessons) {
        if (lesson.line.empty()) {
            print(context.out, "# not written: {}: {}\n", lesson.seen, comment_of(lesson));
        } else {
            print(context.out, "{:<{}}  # {}\n", lesson.line, widest, comment_of(lesson));
        }
    }
}

void print_json(const Context& context, const std::vector<Lesson>& lessons) {
    Json out = Json::array();
    for (const auto& lesson : lessons) {
        const auto& rule = lesson.rule;
        Json each;
        if (!lesson.line.empty()) {
            each["line"] = lesson.line;
        }
        policy::EgressRule bare;
        bare.destination = rule.destination;
        bare.destination.ports.clear();
        const auto text = policy::print(bare);
        each["destination"] = text.substr(0, text.find(' '));
        each["ports"] = Json::array();
        for (const auto& range : rule.destination.ports) {
            each["ports"].push_back(range.first == range.last
                                        ? fmt::format("{}", range.first)
                                        : fmt::format("{}-{}", range.first, range.last));
        }
        each["type"] = rule.type.value_or(0);
        each["protocol"] = protocol_name(rule.protocol.number.value_or(0), "*");
        each["uid"] = rule.owner.uid.value_or(0);
        each["program"] = lesson.program;
        each["container"] = rule.options.container.value_or(false);
        each["addresses"] = lesson.addresses;
        each["count"] = lesson.count;
        each["first"] = store::iso_time(lesson.first);
        each["last"] = store::iso_time(lesson.last);
        each["refusing"] = lesson.refusing;
        if (!lesson.remark.empty()) {
            each["remark"] = lesson.remark;
        }
        out.push_back(std::move(each));
    }
    print(context.out, "{}\n", to_text(out));
}

} // namespace

Exit run_learn(const Context& context, const Arguments& arguments) {
    Wanted wanted;
    wanted.refused = arguments.has("refused");
    if (const auto* const text = arguments.value("since"); text != nullptr) {
        const auto time = parse_time(*text);
        if (!time) {
            return complain(context, {Exit::usage, "--since: " + time.error().text});
        }
        wanted.since = *time == forever ? 0 : context.clock->wall() - *time;
    }
    const auto record = record_of(context, arguments, wanted);
    if (!record) {
        return complain(context, record.error());
    }
    if (record->damaged > 0) {
        print(context.err, "egressctl: {} rows of the record are damaged and left out\n",
              record->damaged);
    }
    LessonOptions options;
    options.exact = arguments.has("exact");
    const auto lessons = learn(record->rows, options);
    if (context.json) {
        print_json(context, lessons);
    } else {
        print_text(context, lessons, *record);
    }
    if (lessons.size() > policy::max_egress_rules) {
        print(context.err, "egressctl: {} lines; a rules file takes {}\n", lessons.size(),
              policy::max_egress_rules);
    }
    return lessons.empty() ? Exit::no : Exit::ok;
}

} // namespace egress::ctl
