#include "daemon/policy/egress/destination.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "daemon/policy/egress/domain.h"
#include "daemon/policy/egress/list.h"
#include "daemon/policy/text/host.h"
#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

using Kind = Destination::Kind;
constexpr auto npos = std::string_view::npos;

bool is_port(std::string_view text, const Context& context) {
    return !text.empty() &&
           (std::ranges::all_of(text, is_digit) || context.names.port(text).has_value());
}

/// Offset of the '-' of a range; npos: the text is one port. Names may contain '-', too.
std::size_t range_dash(std::string_view text, const Context& context) {
    if (text.empty() || context.names.port(text)) {
        return npos;
    }
    for (auto dash = text.find('-'); dash != npos; dash = text.find('-', dash + 1)) {
        if (is_port(text.substr(0, dash), context) && is_port(text.substr(dash + 1), context)) {
            return dash;
        }
    }
    return is_digit(text[0]) ? text.find('-') : npos;
}

std::optional<PortRange> parse_range(const Cell& cell, const Context& context) {
    const auto dash = range_dash(cell.text, context);
    const auto first = parse_port(cell.part(0, dash), context);
    if (!first || dash == npos) {
        return first ? std::optional(PortRange{*first, *first}) : std::nullopt;
    }
    const auto last = parse_port(cell.part(dash + 1), context);
    if (last && *last < *first) {
        return context.error(cell, fmt::format("{} ends before it begins", quote(cell.text)),
                             fmt::format("did you mean {}-{}?", *last, *first));
    }
    return last ? std::optional(PortRange{*first, *last}) : std::nullopt;
}

std::vector<PortRange> joined(std::vector<PortRange> ranges) {
    std::ranges::sort(ranges);
    std::vector<PortRange> out;
    for (const auto& range : ranges) {
        if (!out.empty() && range.first <= std::uint32_t{out.back().last} + 1) {
            out.back().last = std::max(out.back().last, range.last);
        } else {
            out.push_back(range);
        }
    }
    return out;
}

std::optional<Destination> parse_list(const Cell& host, const Context& context) {
    const Cell name = host.part(1);
    if (const auto* wrong = bad_list_name(name.text)) {
        return context.error(name,
                             fmt::format("bad name {} of a list: {}", quote(name.text), wrong),
                             "@NAME is the file NAME of egress.d, beside the rules file");
    }
    Destination out;
    out.kind = Kind::list;
    out.text = name.text;
    return out;
}

/// A word that is neither a class nor an address nor a list.
std::optional<Destination> parse_name(const Cell& host, const Context& context) {
    if (std::ranges::all_of(host.text, is_digit)) {
        return context.error(host, fmt::format("{} is not a destination", quote(host.text)),
                             "write *:PORT for a port at any address");
    }
    auto out = parse_domain(host.text);
    if (!out) {
        const char* hint = out.error().hint;
        return context.error(host, fmt::format("{} {}", quote(host.text), out.error().what),
                             hint == nullptr ? "" : hint);
    }
    if (context.names.port(out->text) && !host.text.ends_with('.')) {
        context.out.warn(host.place(),
                         fmt::format("{} is read as the name of a host", quote(host.text)),
                         fmt::format("write *:{} for the port", out->text));
    }
    return std::move(*out);
}

std::optional<Destination> parse_host(const Cell& host, const Context& context) {
    const Cell base = host.before('/');
    const Cell length = host.part(base.text.size());
    if (host.text.empty()) {
        return context.error(host, "nothing before the ':'", "write *:port for any address");
    }
    if (host.text[0] == '@') {
        return parse_list(host, context);
    }
    Destination out;
    if (const auto address = Address::parse(base.text)) {
        const auto prefix = make_prefix(host, *address, length, false, context);
        out.kind = Kind::prefix;
        out.prefix = prefix.value_or(Prefix{});
        return prefix ? std::optional(out) : std::nullopt;
    }
    if (looks_like_v4(base.text)) {
        return context.error(base, fmt::format("{} is not an address", quote(base.text)),
                             "write 192.0.2.1, 192.0.2.0/24 or [2001:db8::1]");
    }
    if (!length.text.empty()) {
        return context.error(length, fmt::format("{} takes no prefix length", quote(base.text)));
    }
    if (const auto kind = host.text == "*" ? Kind::any : class_of(host.text)) {
        out.kind = *kind;
        return out;
    }
    return parse_name(host, context);
}

std::optional<Destination> parse_bracketed_host(const Cell& cell, Cell& ports,
                                                const Context& context) {
    const auto inside = parse_bracketed(cell, context);
    if (!inside) {
        return std::nullopt;
    }
    ports = inside->port;
    Destination out;
    out.kind = inside->prefix ? Kind::prefix : Kind::any;
    out.prefix = inside->prefix.value_or(Prefix{});
    return out;
}

/// What follows "unix:".
std::optional<Destination> parse_socket(const Cell& cell, const Context& context) {
    const std::string text(cell.text);
    if (const auto what = socket_objection(text); text != "*" && !what.empty()) {
        return context.error(cell, fmt::format("{} {}", quote(text), what),
                             "write unix:/run/some.sock, unix:@name or unix:*");
    }
    Destination out;
    out.kind = Kind::socket;
    out.text = text;
    return out;
}

} // namespace

std::string socket_objection(const std::string& name) {
    constexpr std::size_t longest = 107; // of sun_path; a path ends with a NUL
    if (name.size() < 2 || (name[0] != '/' && name[0] != '@')) {
        return "is neither an absolute path nor @ and an abstract name, nor *";
    }
    if (name.size() > longest) {
        return fmt::format("has more than {} bytes", longest);
    }
    if (name.find('\0') != std::string::npos) {
        return "has a NUL";
    }
    if (name[0] == '@') {
        return {};
    }
    if (name.ends_with("/**")) {
        return "is a directory; each socket has to be listed";
    }
    const bool dotted = (name + "/").find("/./") != std::string::npos ||
                        (name + "/").find("/../") != std::string::npos;
    if (dotted || name.back() == '/' || name.find("//") != std::string::npos) {
        return "has to be written without \"//\", \".\", \"..\" and a \"/\" at its end";
    }
    return {};
}

std::optional<std::vector<PortRange>> parse_ports(const Cell& cell, const Context& context) {
    if (cell.text == "*") {
        return std::vector<PortRange>{};
    }
    std::vector<PortRange> ranges;
    bool good = true;
    for (std::size_t at = 0; at <= cell.text.size();) {
        const Cell item = cell.part(at).before(',');
        at += item.text.size() + 1;
        const auto range = parse_range(item, context);
        good = range.has_value() && good;
        ranges.push_back(range.value_or(PortRange{}));
    }
    ranges = joined(std::move(ranges));
    if (good && ranges.size() > max_port_ranges) {
        return context.error(
            cell, fmt::format("{} ranges of ports", ranges.size()),
            fmt::format("{} are the most; give the others a line of their own", max_port_ranges));
    }
    return good ? std::optional(std::move(ranges)) : std::nullopt;
}

std::optional<Destination> parse_destination(const Cell& cell, const Context& context) {
    std::optional<Destination> out;
    Cell ports;
    for (const auto* const socket : {"unix:/", "unix:@", "unix:*"}) {
        if (cell.text.starts_with(socket)) {
            return parse_socket(cell.part(5), context);
        }
    }
    if (cell.text[0] == '[') {
        out = parse_bracketed_host(cell, ports, context);
    } else if (std::ranges::count(cell.text, ':') > 1) {
        return too_many_colons(cell, context);
    } else {
        const Cell host = cell.before(':');
        ports = cell.part(host.text.size());
        out = parse_host(host, context);
    }
    if (ports.text.empty()) {
        return out;
    }
    auto ranges = parse_ports(ports.part(1), context);
    if (!out || !ranges) {
        return std::nullopt;
    }
    out->ports = std::move(*ranges);
    return out;
}

} // namespace egress::policy
