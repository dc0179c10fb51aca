// watch: the events of the kernel side, or blocks, as they come.
#include <algorithm>
#include <cctype>
#include <span>

#include "ctl/block_text.h"
#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"
#include "ctl/query.h"
#include "ctl/values.h"

namespace egress::ctl {

namespace {

constexpr std::size_t longest_line = 64 << 10;

/// "12", "FILE:12", with a column or not, or "none".
bool names_line(const std::string& text) {
    const auto last = text.substr(text.rfind(':') + 1);
    return text == "none" || (!last.empty() && std::ranges::all_of(last, [](unsigned char c) {
               return std::isdigit(c) != 0;
           }));
}

constexpr std::string_view event_actions[] = {"BLOCKED", "ALLOWED", "MONITOR"};
constexpr std::string_view block_actions[] = {"BLOCK", "EXTEND", "LIFT"};

Outcome<void> add_actions(const Arguments& arguments, Query& query) {
    const std::span<const std::string_view> known =
        arguments.has("blocks") ? block_actions : event_actions;
    for (auto action : arguments.each("action")) {
        std::ranges::transform(action, action.begin(),
                               [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
        if (std::ranges::find(known, action) == known.end()) {
            return fail(Exit::usage, fmt::format("--action: '{}' is not an action; write {}, {} or "
                                                 "{}",
                                                 printable(action), known[0], known[1], known[2]));
        }
        query.add("action", action);
    }
    return {};
}

/// Events have no name, and blocks no program, user and line.
Outcome<void> check_columns(const Arguments& arguments) {
    const bool blocks = arguments.has("blocks");
    for (const auto* const option : {"exe", "uid", "rule"}) {
        if (blocks && arguments.has(option)) {
            return fail(Exit::usage, fmt::format("--{} does not go with --blocks", option));
        }
    }
    if (!blocks && arguments.has("name")) {
        return fail(Exit::usage, "--name goes with --blocks only");
    }
    return {};
}

Outcome<Query> query_of(const Arguments& arguments) {
    Query query;
    if (const auto checked = check_columns(arguments); !checked) {
        return std::unexpected(checked.error());
    }
    if (arguments.has("blocks")) {
        query.add("kind", "blocks");
    }
    for (const auto& text : arguments.each("name")) {
        const auto name = parse_name(text);
        if (!name) {
            return fail(Exit::usage, "--name: " + name.error().text);
        }
        query.add("name", *name);
    }
    if (const auto taken = add_actions(arguments, query); !taken) {
        return std::unexpected(taken.error());
    }
    for (const auto& path : arguments.each("exe")) {
        query.add("exe", path);
    }
    for (const auto& text : arguments.each("uid")) {
        const auto user = parse_user(text);
        if (!user) {
            return fail(Exit::usage, "--uid: " + user.error().text);
        }
        query.add("uid", fmt::format("{}", user->uid));
    }
    for (const auto& text : arguments.each("port")) {
        const auto target = parse_target("0.0.0.0:" + text);
        if (!target || !target->port) {
            return fail(Exit::usage,
                        fmt::format("--port: '{}' is no number from 1 to 65535", printable(text)));
        }
        query.add("port", fmt::format("{}", *target->port));
    }
    for (const auto& text : arguments.each("rule")) {
        if (!names_line(text)) {
            return fail(Exit::usage, fmt::format("--rule: '{}' is no line; write 12, "
                                                 "/etc/egress.conf:12, or none",
                                                 printable(text)));
        }
        query.add("rule", text);
    }
    for (const auto& text : arguments.each("addr")) {
        const auto target = parse_target(text);
        if (!target) {
            return fail(Exit::usage, "--addr: " + target.error().text);
        }
        if (target->port) {
            return fail(Exit::usage,
                        fmt::format("--addr: '{}' has a port; leave it out", printable(text)));
        }
        query.add("addr", target->prefix.text());
    }
    return query;
}

void add(std::string& line, std::string_view before, const std::string& text,
         std::string_view after = "") {
    if (!text.empty()) {
        line += fmt::format("{}{}{}", before, text, after);
    }
}

std::string number_text(const Json& event, const char* key) {
    const auto number = number_at(event, key);
    return number ? fmt::format("{}", *number) : std::string();
}

/// "TIME BLOCKED tcp 192.0.2.1:80 (files.example.org) /usr/bin/curl[4711] uid 1000 (alice) CONF:3:1
/// deny"
std::string event_line(const Json& event) {
    auto line = text_at(event, "time");
    add(line, " ", text_at(event, "action"));
    add(line, " ", text_at(event, "protocol"));
    if (const auto address = text_at(event, "addr"); text_at(event, "family") == "unix") {
        add(line, " ", address);
    } else if (!address.empty()) {
        const bool v6 = address.find(':') != std::string::npos;
        line += fmt::format(" {}{}{}:{}", v6 ? "[" : "", address, v6 ? "]" : "",
                            number_text(event, "port"));
        add(line, " (", text_at(event, "domain"), ")");
    } else {
        add(line, " a ", text_at(event, "type"), " socket");
    }
    auto program = text_at(event, "exe");
    if (program.empty()) {
        add(program, "(", text_at(event, "comm"), ")");
    }
    add(line, " ", program);
    add(line, "[", number_text(event, "pid"), "]");
    add(line, " uid ", number_text(event, "uid"));
    add(line, " (", text_at(event, "user"), ")");
    if (true_at(event, "container")) {
        line += " in a container";
        add(line, " (", text_at(event, "hostname"), ")");
    }
    add(line, " ", text_at(event, "rule"));
    add(line, " ", text_at(event, "reason"));
    if (const auto count = number_at(event, "count").value_or(1); count > 1) {
        line += fmt::format(", {} times", count);
    }
    return line;
}

/// "TIME LIFT 192.0.2.1/32 port 22 tcp in egress: expired"
std::string change_line(const Json& change) {
    const auto action = text_at(change, "action");
    auto line = fmt::format("{} {} {}", text_at(change, "time"), action, block_text(change));
    if (action == "LIFT") {
        add(line, ": ", text_at(change, "why"));
    } else {
        line += " " + until_text(change);
        add(line, ": ", text_at(change, "reason"));
    }
    return line;
}

} // namespace

Exit run_watch(const Context& context, const Arguments& arguments) {
    const auto query = query_of(arguments);
    if (!query) {
        return complain(context, query.error());
    }
    bool understood = true;
    const auto on_line = [&](std::string_view text) {
        const auto event = parse_json(text);
        understood = event && event->is_object();
        if (!understood) {
            return false;
        }
        const auto dropped = number_at(*event, "dropped");
        if (context.json) {
            print(context.out, "{}\n", to_text(*event, -1));
        } else if (dropped) {
            print(context.out,
                  "-- {} events are missing here: they came faster than they were read\n",
                  *dropped);
        } else {
            print(context.out, "{}\n",
                  arguments.has("blocks") ? change_line(*event) : event_line(*event));
        }
        return std::fflush(context.out) == 0; // run() reports a failure
    };
    const auto ended =
        follow(context, {"GET", "/v1/events" + query->text(), {}, longest_line}, on_line);
    if (!ended) {
        return complain(context, ended.error());
    }
    if (!understood) {
        return complain(context, {Exit::unreachable, "egressd's answer is not understood"});
    }
    if (std::ferror(context.out) != 0) {
        return Exit::unreachable;
    }
    return complain(context, {Exit::unreachable, "egressd has stopped; there is no more to watch"});
}

} // namespace egress::ctl
