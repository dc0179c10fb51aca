// selftest: tries every way out, as a process of which the hooks refuse every check.
#include <filesystem>
#include <fstream>

#include "ctl/canary.h"
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/process.h"

namespace egress::ctl {

namespace {

enum class Found : unsigned char { enforced, open, uncovered, untried };

struct Line {
    std::string_view name;
    std::string_view hook;
    Found found = Found::untried;
    std::string why; ///< details, if any
};

std::string_view text_of(Found found) {
    switch (found) {
    case Found::enforced:
        return "enforced";
    case Found::open:
        return "NOT ENFORCED";
    case Found::uncovered:
        return "not covered";
    case Found::untried:
        break;
    }
    return "not tried";
}

std::string_view key_of(Found found) {
    return found == Found::open ? "not enforced" : text_of(found);
}

/// Whether this process is in the cgroup that the hooks are attached to.
bool is_inside(const std::string& attached) {
    std::error_code code;
    const std::filesystem::path top = attached;
    std::ifstream mounts("/proc/self/mounts");
    std::filesystem::path at;
    for (std::string device, where, kind, rest;
         mounts >> device >> where >> kind && std::getline(mounts, rest);) {
        if (kind == "cgroup2") {
            at = where;
        }
    }
    const auto own = cgroup_in("/proc/self/cgroup");
    if (at.empty() || own.empty()) {
        return true; // unknown: the tries will show it
    }
    for (std::filesystem::path here = at.string() + own;; here = here.parent_path()) {
        if (std::filesystem::equivalent(here, top, code)) {
            return true;
        }
        if (here == at || !here.has_relative_path()) {
            // An unreadable directory proves nothing.
            return !std::filesystem::exists(top, code) ||
                   std::filesystem::equivalent(at, top, code);
        }
    }
}

/// The hooks that not every kernel has.
struct Extra {
    bool packets;
    bool writes;
};

Line judged(const Way& way, const Attempt& attempt, Extra has) {
    Line line{way.name, way.hook, Found::untried, attempt.why};
    const bool covered = !way.hook.empty() && (way.hook != "packet" || has.packets) &&
                         (way.hook != "write" || has.writes);
    if (attempt.kind == Attempt::Kind::refused) {
        line.found = Found::enforced;
    } else if (attempt.kind == Attempt::Kind::passed) {
        line.found = covered ? Found::open : Found::uncovered;
    }
    return line;
}

Line identity(const Json& mark) {
    Line line{"identity of this process", "exec", Found::enforced, text_at(mark, "exe")};
    if (!true_at(mark, "known")) {
        line.found = Found::open;
        line.why = "the hooks do not know it, so no line that names a program matches it";
    }
    return line;
}

Extra extra_hooks(const Json& mark) {
    const auto* const hooks = member(mark, "hooks");
    if (hooks == nullptr || !hooks->is_object()) {
        return {};
    }
    // A hook that was detached leaves a way open; one that the kernel lacks covers none.
    const auto was_attached = [&](const char* hook) {
        const auto text = text_at(*hooks, hook);
        return text == "attached" || text == "its pin is gone" || text == "it was taken off";
    };
    return {!text_at(*hooks, "egress_packet").empty(),
            was_attached("egress_write") || was_attached("egress_write_fn")};
}

/// The ways that are never tried, as they need other processes' help or are open on purpose.
void add_open(std::vector<Line>& lines, const Json& mark) {
    const auto* const hooks = member(mark, "hooks");
    const auto is_attached = [&](const char* hook) {
        return hooks != nullptr && hooks->is_object() && text_at(*hooks, hook) == "attached";
    };
    const bool families = is_attached("egress_family");
    lines.push_back({"delayed send on another process' MPTCP or UDP socket", "", Found::uncovered,
                     "egress.conf(5) says what that means"});
    lines.push_back({"answer to a datagram, by the socket that received it, for 30 seconds", "",
                     Found::uncovered, "meant so, as on accepted connections"});
    if (!families) {
        lines.push_back({"RDS, SMC, TIPC and RxRPC sockets", "", Found::uncovered,
                         "needs \"bpf\" among the kernel's active security modules"});
    }
    if (!is_attached("egress_unix_connect") || !is_attached("egress_unix_sendmsg")) {
        lines.push_back({"AF_UNIX sockets, of runs and of unix: lines", "", Found::uncovered,
                         "needs Linux 6.7"});
    }
}

/// Destinations by name: what no hook can read, and what to do about it here.
void add_hidden(std::vector<Line>& lines, const Json& mark) {
    if (!true_at(mark, "reads_names")) {
        return;
    }
    lines.push_back({"answers that a program gets over TLS or HTTPS by itself", "",
                     Found::uncovered, "they grant nothing"});
    const auto* const hidden = member(mark, "hidden");
    for (const auto& each : hidden != nullptr && hidden->is_array() ? *hidden : Json::array()) {
        lines.push_back({"answers of resolvers", "", Found::uncovered,
                         fmt::format("{}; {}", text_at(each, "what"), text_at(each, "advice"))});
    }
}

/// Refusals that did not come from the hooks prove nothing.
void check_count(std::vector<Line>& lines, const Outcome<Json>& end) {
    std::int64_t seen = 0;
    for (const auto& line : lines) {
        seen += line.found == Found::enforced && line.hook != "exec" ? 1 : 0;
    }
    const auto refused = end ? number_at(*end, "refused") : std::nullopt;
    if (!refused) {
        lines.push_back({"count of refusals", "", Found::open,
                         end ? "egressd did not report it" : end.error().text});
    } else if (*refused < seen) {
        lines.push_back({"count of refusals", "", Found::open,
                         fmt::format("{} seen, but the hooks count {}", seen, *refused)});
    }
}

/// Whether the rules are in force and enforced, as the kernel has them.
bool in_force(const Json& mark) {
    return text_at(mark, "state") == "in force" && !true_at(mark, "monitor");
}

bool is_good(const Json& mark, const std::vector<Line>& lines) {
    bool any = false;
    for (const auto& line : lines) {
        any = any || (line.found == Found::enforced && line.hook != "exec");
        if (line.found == Found::open) {
            return false;
        }
    }
    return any && in_force(mark);
}

void print_json(const Context& context, const Json& mark, const std::vector<Line>& lines) {
    Json out = {{"enforced", is_good(mark, lines)},
                {"state", text_at(mark, "state")},
                {"generation", number_at(mark, "generation").value_or(0)},
                {"cgroup", text_at(mark, "cgroup")},
                {"monitor", true_at(mark, "monitor")},
                {"paths", Json::array()}};
    for (const auto& line : lines) {
        Json one = {{"path", line.name}, {"result", key_of(line.found)}};
        if (!line.hook.empty()) {
            one["hook"] = line.hook;
        }
        if (!line.why.empty()) {
            one["why"] = line.why;
        }
        out["paths"].push_back(std::move(one));
    }
    print(context.out, "{}\n", to_text(out));
}

void print_answer(const Context& context, const Json& mark, const std::vector<Line>& lines) {
    int open = 0;
    for (const auto& line : lines) {
        open += line.found == Found::open ? 1 : 0;
        print(context.out, "{:<14}{:<13}{}{}\n", text_of(line.found),
              line.hook.empty() ? "-" : line.hook, line.name,
              line.why.empty() ? "" : fmt::format(" ({})", printable(line.why)));
    }
    print(context.out, "rules of [egress]: {}, generation {}\n", text_at(mark, "state"),
          number_at(mark, "generation").value_or(0));
    if (true_at(mark, "monitor")) {
        print(context.out,
              "NOT ENFORCED: egressd runs with -m: the rules themselves refuse nothing\n");
    } else if (!in_force(mark)) {
        print(context.out, "NOT ENFORCED: \"egressctl status\" says why\n");
    }
    if (open > 0) {
        print(context.out, "NOT ENFORCED: {} of {} ways\n", open, lines.size());
    } else if (in_force(mark) && !is_good(mark, lines)) {
        print(context.out, "NOT ENFORCED: no way could be tried\n");
    }
}

Exit run_in(const Context& context, const Json& mark, const Canary& canary) {
    std::vector<Line> lines = {identity(mark)};
    for (const auto& way : ways()) {
        lines.push_back(judged(way, way.attempt(canary.sockets()), extra_hooks(mark)));
    }
    add_open(lines, mark);
    add_hidden(lines, mark);
    check_count(lines, call(context, {"DELETE", "/v1/selftest"}));
    if (context.json) {
        print_json(context, mark, lines);
    } else {
        print_answer(context, mark, lines);
    }
    return is_good(mark, lines) ? Exit::ok : Exit::no;
}

} // namespace

Exit run_selftest(const Context& context, const Arguments&) {
    const auto started = start_of("/proc/self/stat");
    if (!started) {
        return complain(context, {Exit::unreachable, "cannot read /proc/self/stat"});
    }
    // Sockets created before the mark, after which the kernel refuses, do not count as traffic
    // either.
    const auto noted = call(
        context, {"POST", "/v1/selftest", to_text({{"started", *started}, {"prepare", true}}, -1)});
    if (!noted) {
        return complain(context, noted.error());
    }
    const Canary canary;
    const auto mark = call(context, {"POST", "/v1/selftest", to_text({{"started", *started}}, -1)});
    if (!mark) {
        return complain(context, mark.error());
    }
    if (!mark->is_object() || !number_at(*mark, "seconds")) {
        return complain(context, {Exit::unreachable, "egressd's answer is not understood"});
    }
    const auto cgroup = text_at(*mark, "cgroup");
    if (!is_inside(cgroup)) {
        (void)call(context, {"DELETE", "/v1/selftest"});
        return complain(context,
                        {Exit::no, fmt::format("the hooks are attached to {}, and egressctl runs "
                                               "outside of it: nothing was tried",
                                               cgroup)});
    }
    return run_in(context, *mark, canary);
}

} // namespace egress::ctl
