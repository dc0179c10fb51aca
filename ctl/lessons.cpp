#include "ctl/lessons.h"

#include <algorithm>
#include <compare>
#include <map>
#include <optional>
#include <tuple>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "ctl/out.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "daemon/policy/print/print_columns.h"

namespace egress::ctl {

namespace {

using store::EventRow;

/// All columns of a line except the destination.
struct Subject {
    std::string program;
    bool nameless = false;
    bool container = false;
    std::uint32_t uid = 0;
    int type = 0;
    int protocol = 0;
    friend auto operator<=>(const Subject&, const Subject&) = default;
};

/// The traffic seen to one destination.
struct Seen {
    std::set<std::uint16_t> ports;
    std::set<std::string> refusing;
    std::uint64_t count = 0;
    std::uint32_t first = 0xffffffff;
    std::uint32_t last = 0;
    std::size_t addresses = 1;

    void add(const EventRow& row) {
        ports.insert(row.port);
        count += row.count;
        first = std::min(first, row.first);
        last = std::max(last, row.last);
        const bool refuses =
            row.action != EventRow::Action::allowed && (row.flags & EventRow::audited) == 0;
        if (refuses && !row.rule.empty()) {
            refusing.insert(row.rule);
        }
    }
    void add(const Seen& other) {
        count += other.count;
        first = std::min(first, other.first);
        last = std::max(last, other.last);
        refusing.insert(other.refusing.begin(), other.refusing.end());
        addresses += other.addresses;
    }
};

struct Destinations {
    std::map<Prefix, Seen> prefixes;
    std::optional<Seen> beyond;  ///< of addresses beyond those that are kept
    std::optional<Seen> sockets; ///< created, without a destination
};

void fill(std::optional<Seen>& into, const EventRow& row) {
    if (!into) {
        into.emplace();
    }
    into->add(row);
}

Prefix neighbourhood(const Prefix& host) {
    return Prefix::around(host.base, host.base.is_v4() ? 24 : 64);
}

/// Turns neighbours with the same ports into their prefix, if there are many.
void join_neighbours(std::map<Prefix, Seen>& prefixes) {
    std::map<std::pair<Prefix, std::set<std::uint16_t>>, std::vector<Prefix>> groups;
    for (const auto& [prefix, seen] : prefixes) {
        groups[{neighbourhood(prefix), seen.ports}].push_back(prefix);
    }
    for (const auto& [key, members] : groups) {
        if (members.size() < neighbours || key.first.length == 0) {
            continue;
        }
        Seen all;
        all.ports = key.second;
        all.addresses = 0;
        for (const auto& member : members) {
            all.add(prefixes.at(member));
            prefixes.erase(member);
        }
        // Other ports of the same prefix get their own line below.
        if (const auto [at, fresh] = prefixes.emplace(key.first, all); !fresh) {
            at->second.add(all);
            at->second.ports.insert(all.ports.begin(), all.ports.end());
        }
    }
}

std::vector<policy::PortRange> ranges_of(const std::set<std::uint16_t>& ports) {
    std::vector<policy::PortRange> out;
    for (const auto port : ports) {
        if (!out.empty() && out.back().last + 1 == port) {
            out.back().last = port;
        } else {
            out.push_back({port, port});
        }
    }
    return out;
}

std::string subject_text(const Subject& subject) {
    return fmt::format("{}{}{} of uid {}{}", subject.nameless ? "(" : "",
                       printable(subject.program), subject.nameless ? ")" : "", subject.uid,
                       subject.container ? " in a container" : "");
}

policy::EgressRule rule_of(const Subject& subject) {
    policy::EgressRule rule;
    rule.type = subject.type;
    rule.protocol.number = static_cast<std::uint8_t>(subject.protocol);
    rule.owner.uid = subject.uid;
    rule.program = {policy::Program::Kind::path, subject.program};
    if (subject.container) {
        rule.options.container = true;
    }
    return rule;
}

/// The line as text, if it parses to the same rule again.
std::string text_of(const policy::EgressRule& rule) {
    auto text = policy::print(rule);
    const auto parsed = policy::parse_text("[egress]\n" + text + "\n", "learn");
    const bool same = parsed.ok() && parsed.policy.egress.size() == 1 &&
                      policy::same_meaning(parsed.policy.egress[0], rule);
    return same ? text : std::string();
}

bool is_there(const std::string& path) {
    struct stat found {};
    return stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}

class Class {
  public:
    explicit Class(const LessonOptions& options) : options_(options) {}

    void teach(const Subject& subject, Destinations& destinations) {
        if (!options_.exact) {
            join_neighbours(destinations.prefixes);
        }
        for (const auto& [prefix, seen] : destinations.prefixes) {
            policy::Destination destination;
            destination.kind = policy::Destination::Kind::prefix;
            destination.prefix = prefix;
            add(subject, destination, seen,
                prefix.is_host() ? "" : fmt::format("for {} addresses", seen.addresses));
        }
        if (destinations.beyond) {
            add(subject, {}, *destinations.beyond, "for more addresses than are kept singly");
        }
        if (destinations.sockets) {
            destinations.sockets->ports.clear();
            add(subject, {}, *destinations.sockets,
                "for creating sockets; their destinations are unknown");
        }
    }
    std::vector<Lesson> take() { return std::move(out_); }

  private:
    void add(const Subject& subject, policy::Destination destination, const Seen& seen,
             std::string remark) {
        // A line has a maximum of ranges; more of them make more lines.
        auto ranges = ranges_of(seen.ports);
        do {
            const auto part = std::min(ranges.size(), policy::max_port_ranges);
            const auto end = ranges.begin() + static_cast<std::ptrdiff_t>(part);
            destination.ports.assign(ranges.begin(), end);
            ranges.erase(ranges.begin(), end);
            add_line(subject, destination, seen, remark);
        } while (!ranges.empty());
    }

    void add_line(const Subject& subject, const policy::Destination& destination, const Seen& seen,
                  const std::string& remark) {
        Lesson lesson;
        lesson.rule = rule_of(subject);
        lesson.rule.destination = destination;
        lesson.program = subject.program;
        lesson.addresses = seen.addresses;
        lesson.count = seen.count;
        lesson.first = seen.first;
        lesson.last = seen.last;
        lesson.refusing = seen.refusing;
        lesson.remark = remark;
        if (subject.nameless) {
            lesson.remark = "its program is unknown; only the command name that it chose is known";
        } else if (lesson.line = text_of(lesson.rule); lesson.line.empty()) {
            lesson.remark = "the rules cannot express it";
        } else if (options_.files && !subject.container && !is_there(subject.program)) {
            lesson.remark = "the program no longer exists";
            lesson.line.clear();
        }
        if (lesson.line.empty()) {
            auto rule = lesson.rule;
            rule.program = {};
            const auto text = policy::print(rule);
            lesson.seen = subject_text(subject) + " to " + text.substr(0, text.find(' ')) + " " +
                          policy::print_protocol(rule.protocol);
        }
        out_.push_back(std::move(lesson));
    }

    const LessonOptions& options_;
    std::vector<Lesson> out_;
};

} // namespace

std::vector<Lesson> learn(const std::vector<store::EventRow>& rows, const LessonOptions& options) {
    std::map<Subject, Destinations> subjects;
    for (const auto& row : rows) {
        if ((row.flags & EventRow::overflow) != 0) {
            continue;
        }
        auto& destinations =
            subjects[{row.program, (row.flags & EventRow::nameless) != 0,
                      (row.flags & EventRow::container) != 0, row.uid, row.type, row.protocol}];
        if ((row.flags & EventRow::wide) != 0) {
            fill(destinations.beyond, row);
        } else if (!row.address) {
            fill(destinations.sockets, row);
        } else {
            destinations.prefixes[Prefix::host(*row.address)].add(row);
        }
    }
    Class lessons(options);
    for (auto& [subject, destinations] : subjects) {
        lessons.teach(subject, destinations);
    }
    return lessons.take();
}

} // namespace egress::ctl
