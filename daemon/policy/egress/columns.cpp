// The columns of [egress] between destination and options, and the whole line.
#include "daemon/policy/egress/columns.h"

#include "daemon/policy/egress/destination.h"
#include "daemon/policy/egress/options.h"
#include "daemon/policy/text/columns.h"
#include "daemon/policy/text/host.h"
#include "daemon/policy/text/number.h"
#include "daemon/policy/text/path.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace egress::policy {

namespace {

constexpr std::size_t max_columns_bytes = max_line * 3 / 4; // leaves room for the blanks of print()
constexpr std::string_view columns_text = "destination type proto owner program action [options]";

bool has_columns(const Line& line, const Context& context) {
    const auto& cells = line.cells();
    if (cells.size() < 6 || cells.size() > 7) {
        context.error(cells[std::min<std::size_t>(cells.size() - 1, 7)],
                      fmt::format("{} columns; a line of [egress] has 6 or 7", cells.size()),
                      std::string(columns_text));
        return false;
    }
    std::size_t bytes = 0;
    for (const auto& each : cells) {
        bytes += each.text.size();
    }
    if (bytes > max_columns_bytes) {
        context.error(cells[0], fmt::format("the columns have {} bytes", bytes),
                      fmt::format("{} are the most", max_columns_bytes));
        return false;
    }
    return true;
}

/// "addr:port" or "[v6]:port".
std::optional<Endpoint> parse_target(const Cell& cell, const Context& context) {
    const auto colon = cell.text.rfind(':');
    if (colon != std::string_view::npos) {
        auto host = cell.text.substr(0, colon);
        const bool bracketed = host.starts_with('[') && host.ends_with(']');
        if (bracketed) {
            host = host.substr(1, host.size() - 2);
        }
        const auto address = Address::parse(host);
        if (address && bracketed == (host.find(':') != std::string_view::npos)) {
            const auto port = parse_port(cell.part(colon + 1), context);
            return port ? std::optional(Endpoint{*address, *port}) : std::nullopt;
        }
    }
    return context.error(cell, fmt::format("bad target {} of redirect", quote(cell.text)),
                         "write redirect=127.0.0.1:3129 or redirect=[::1]:3129");
}

/// A user or a group, by name or number. False: an error is reported.
bool parse_id(const Cell& cell, const Context& context, bool group,
              std::optional<std::uint32_t>& out) {
    if (cell.text == "*") {
        return true;
    }
    out = group ? context.names.gid(cell.text) : context.names.uid(cell.text);
    if (out) {
        return true;
    }
    const std::string_view what = group ? "group" : "user";
    if (cell.text.empty() || cell.text[0] < '0' || cell.text[0] > '9') {
        const auto known = group ? context.names.groups() : context.names.users();
        context.error(cell, fmt::format("unknown {} {}", what, quote(cell.text)),
                      suggestion(cell.text, known,
                                 fmt::format("it is not in /etc/{}; write the {}'s number",
                                             group ? "group" : "passwd", what)));
        return false;
    }
    // (uid_t) -1 is "no user" to the kernel.
    if (const auto number = parse_number(cell, context, group ? "gid" : "uid", 0, 0xfffffffe)) {
        out = static_cast<std::uint32_t>(*number);
    }
    return out.has_value();
}

std::optional<Program> parse_command(const Cell& cell, const Context& context) {
    const auto text = cell.text;
    if (text.find('/') != std::string_view::npos) {
        return context.error(cell, fmt::format("program {} is a relative path", quote(text)),
                             "write the path from the root on, or the bare command name");
    }
    if (text.find('*') != std::string_view::npos) {
        return context.error(cell, fmt::format("'*' in the command name {}", quote(text)),
                             "'*' alone is any program, '/dir/**' all below a directory");
    }
    if (text.size() > max_command) {
        return context.error(cell, fmt::format("command name {} is too long", quote(text)),
                             fmt::format("the kernel keeps {} bytes: {}", max_command,
                                         quote(text.substr(0, max_command))));
    }
    return Program{Program::Kind::command, std::string(text)};
}

} // namespace

std::optional<EgressOwner> parse_egress_owner(const Cell& cell, const Context& context) {
    EgressOwner out;
    const Cell user = cell.before(':');
    const bool has_group = user.text.size() < cell.text.size();
    if (!has_group) {
        return parse_id(user, context, false, out.uid) ? std::optional(out) : std::nullopt;
    }
    const Cell group = cell.part(user.text.size() + 1);
    if (group.text.empty()) {
        return context.error(group, "no group after the ':'",
                             "'user:group', ':group', or 'user' alone");
    }
    const bool good = user.text.empty() || parse_id(user, context, false, out.uid);
    return parse_id(group, context, true, out.gid) && good ? std::optional(out) : std::nullopt;
}

std::optional<Program> parse_program(const Cell& cell, const Context& context) {
    if (cell.text == "*") {
        return Program{};
    }
    if (cell.text[0] != '/') {
        return parse_command(cell, context);
    }
    constexpr std::string_view below = "/**";
    if (cell.text.ends_with(below)) {
        const Cell directory = cell.part(0, cell.text.size() - below.size());
        // The kernel compares the directory with its final '/'.
        return directory.text.empty() ||
                       check_path(directory, context, "directory", max_program_path - 1)
                   ? std::optional(Program{Program::Kind::tree, std::string(directory.text)})
                   : std::nullopt;
    }
    if (cell.text.ends_with('/')) {
        return context.error(cell, fmt::format("program {} is a directory", quote(cell.text)),
                             fmt::format("write {} for all programs below it",
                                         quote(std::string(cell.text) + "**")));
    }
    return check_path(cell, context, "program", max_program_path)
               ? std::optional(Program{Program::Kind::path, std::string(cell.text)})
               : std::nullopt;
}

std::optional<Verdict> parse_verdict(const Cell& cell, const Context& context) {
    const Cell word = cell.before('=');
    const auto kind = verdict_of(word.text);
    if (!kind) {
        return context.error(
            cell, fmt::format("unknown action {}", quote(cell.text)),
            suggestion(word.text, verdict_names(), "write allow, deny, reject, ask or redirect="));
    }
    Verdict out{*kind, {}};
    if (*kind == Verdict::Kind::redirect) {
        const auto target =
            parse_target(cell.part(std::min(word.text.size() + 1, cell.text.size())), context);
        out.target = target.value_or(Endpoint{});
        return target ? std::optional(out) : std::nullopt;
    }
    if (word.text.size() < cell.text.size()) {
        return context.error(cell, fmt::format("action {} takes no value", quote(word.text)));
    }
    return out;
}

std::optional<EgressRule> parse_egress(const Line& line, const Context& context) {
    if (!has_columns(line, context)) {
        return std::nullopt;
    }
    const auto& cells = line.cells();
    EgressRule rule;
    bool good = true;
    const auto take = [&good](auto value, auto& into) {
        good = value.has_value() && good;
        if (value) {
            into = std::move(*value);
        }
    };
    rule.place = cells[0].place();
    take(parse_destination(cells[0], context), rule.destination);
    good = parse_type(cells[1], context, rule.type) && good;
    take(parse_protocol(cells[2], context), rule.protocol);
    take(parse_egress_owner(cells[3], context), rule.owner);
    take(parse_program(cells[4], context), rule.program);
    take(parse_verdict(cells[5], context), rule.verdict);
    if (cells.size() > 6) {
        take(parse_egress_options(cells[6], context), rule.options);
    }
    if (is_name(rule.destination) && rule.protocol.family != AF_UNSPEC) {
        return context.error(cells[2], fmt::format("{} with a name", quote(cells[2].text)),
                             "a name has addresses of both families: leave out the 4 or 6");
    }
    if (rule.destination.kind == Destination::Kind::socket) {
        if (rule.protocol != Protocol{}) {
            return context.error(cells[2],
                                 fmt::format("{} with a socket of AF_UNIX", quote(cells[2].text)),
                                 "write *; the type may be stream, dgram or 5 (seqpacket)");
        }
        if (rule.options.resolved || rule.options.rebind) {
            return context.error(cells[6], "resolved and rebind are for addresses",
                                 "a socket of AF_UNIX has none");
        }
    }
    return good ? std::optional(std::move(rule)) : std::nullopt;
}

bool same_or_below(std::string_view path, std::string_view directory) {
    return path.starts_with(directory) &&
           (path.size() == directory.size() || directory.ends_with('/') ||
            path[directory.size()] == '/');
}

} // namespace egress::policy
