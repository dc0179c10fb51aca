// First column of [local], [remote] and [trusted].
#include "daemon/policy/columns.h"

#include <algorithm>

#include <fmt/format.h>
#include <net/if.h>

namespace egress::policy {

namespace {

constexpr auto npos = std::string_view::npos;

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool is_interface_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '-' ||
           c == '_' || c == '.' || c == '@' || c == '+';
}

/// "eth0", "ppp0", "br-lan", "eth0.100": what may well appear later. Another name with a dot looks
/// more like a host's, and one of digits like half an address: they are taken only while the
/// interface exists.
bool may_be_interface(std::string_view name) {
    if (name.empty() || name.size() >= IF_NAMESIZE ||
        !std::ranges::all_of(name, is_interface_character)) {
        return false;
    }
    if (LocalNames::interface_exists(name)) {
        return true;
    }
    const auto dot = name.find('.');
    return !is_digit(name[0]) &&
           (dot == npos || (dot > 0 && dot + 1 < name.size() &&
                            std::ranges::all_of(name.substr(dot + 1), is_digit)));
}

std::optional<Location> with_port(Location location, const Cell& port, const Context& context) {
    const bool any = port.text == "*" || (context.remote() && port.text == "=");
    if (!any) {
        const auto number = parse_port(port, context);
        if (!number) {
            return std::nullopt;
        }
        location.port = *number;
    }
    return location;
}

/// "[v6]", "[v6]/len", "[v6]:port", "[v6]/len:port".
std::optional<Location> parse_bracketed_location(const Cell& cell, const Context& context) {
    const auto inside = parse_bracketed(cell, context);
    if (!inside) {
        return std::nullopt;
    }
    const Location location{inside->prefix, {}, {}};
    return inside->port.text.empty() ? std::optional(location)
                                     : with_port(location, inside->port.part(1), context);
}

/// What stands before a ':' (or alone), when it is no address.
std::optional<Location> parse_interface(const Cell& host, const Context& context) {
    if (looks_like_v4(host.text) || !may_be_interface(host.text)) {
        return context.error(host, fmt::format("{} is not an address", quote(host.text)),
                             host.text.find('.') == npos || looks_like_v4(host.text)
                                 ? "write 192.0.2.1, 192.0.2.0/24 or [2001:db8::1]"
                                 : "names are not looked up; write the address");
    }
    if (context.remote()) {
        return context.error(
            host,
            fmt::format("{} is not an address, and [remote] takes no interface", quote(host.text)),
            "an interface belongs into [local]");
    }
    Location location;
    location.interface = host.text;
    return location;
}

/// "*", "addr[/len]" or an interface.
std::optional<Location> parse_host(const Cell& host, const Context& context) {
    const Cell base = host.before('/');
    const Cell length = host.part(base.text.size());
    if (host.text.empty()) {
        return context.error(host, "nothing before the ':'", "write *:port for any address");
    }
    const auto address = Address::parse(base.text);
    if (address) {
        const auto prefix = make_prefix(host, *address, length, false, context);
        return prefix ? std::optional(Location{*prefix, {}, {}}) : std::nullopt;
    }
    if (!length.text.empty() && (base.text == "*" || may_be_interface(base.text)) &&
        !looks_like_v4(base.text)) {
        return context.error(length, fmt::format("{} takes no prefix length", quote(base.text)));
    }
    return base.text == "*" ? std::optional(Location{}) : parse_interface(base, context);
}

} // namespace

bool looks_like_v4(std::string_view text) {
    return text.find('.') != npos &&
           std::ranges::all_of(text, [](char c) { return is_digit(c) || c == '.'; });
}

std::optional<Prefix> make_prefix(const Cell& whole, const Address& address, const Cell& length,
                                  bool written_as_v6, const Context& context) {
    if (length.text.empty()) {
        return Prefix::host(address);
    }
    const bool mapped = written_as_v6 && address.is_v4();
    const std::uint64_t width = written_as_v6 ? 128 : 32;
    const auto number =
        parse_number(length.part(1), context, "prefix length", mapped ? 96 : 0, width);
    if (!number) {
        return std::nullopt;
    }
    const auto prefix = Prefix::around(address, static_cast<int>(*number) - (mapped ? 96 : 0));
    if (prefix.base != address) {
        const auto right = address.is_v4()
                               ? fmt::format("{}/{}", prefix.base.text(), prefix.length)
                               : fmt::format("[{}]/{}", prefix.base.text(), prefix.length);
        const auto what = fmt::format("{} has bits set past its length", quote(whole.text));
        // blocklistd's files have such lines, and what they block is not wider than it was there.
        if (context.section == Section::egress) {
            return context.error(whole, what, fmt::format("did you mean {}?", right));
        }
        context.out.warn(whole.place(), what,
                         fmt::format("did you mean {}? It is read as that", right));
    }
    return prefix;
}

std::optional<Bracketed> parse_bracketed(const Cell& cell, const Context& context) {
    const auto close = cell.text.find(']');
    if (close == npos) {
        return context.error(cell, fmt::format("{} has no closing ']'", quote(cell.text)));
    }
    const Cell inside = cell.part(1, close - 1);
    const Cell rest = cell.part(close + 1);
    const Cell length = rest.before(':');
    Bracketed out{{}, rest.part(length.text.size())};
    if (inside.text == "*") {
        return length.text.empty() ? std::optional(out)
                                   : context.error(length, "'*' takes no prefix length");
    }
    const auto address = Address::parse(inside.text);
    if (!address || inside.text.find(':') == npos) {
        return context.error(inside, fmt::format("{} is not an IPv6 address", quote(inside.text)),
                             inside.text.find('/') == npos
                                 ? "names are not looked up"
                                 : "the length stands after the bracket: [2001:db8::]/32");
    }
    if (!length.text.empty() && length.text[0] != '/') {
        return context.error(length, fmt::format("{} after the ']'", quote(length.text)),
                             "'/length' and ':port' may follow");
    }
    out.prefix =
        make_prefix(cell.part(0, close + 1 + length.text.size()), *address, length, true, context);
    return out.prefix ? std::optional(out) : std::nullopt;
}

std::optional<std::uint16_t> parse_port(const Cell& cell, const Context& context) {
    if (cell.text.empty()) {
        return context.error(cell, "no port after the ':'", "leave out the ':' for any port");
    }
    if (const auto port = context.names.port(cell.text)) {
        return port;
    }
    if (!is_digit(cell.text[0])) {
        const auto services = context.names.services();
        return context.error(cell, fmt::format("unknown service {}", quote(cell.text)),
                             suggestion(cell.text, services, "write the port's number"));
    }
    const auto number = parse_number(cell, context, "port", 1, 65535);
    return number ? std::optional(static_cast<std::uint16_t>(*number)) : std::nullopt;
}

std::nullopt_t too_many_colons(const Cell& cell, const Context& context) {
    const Cell base = cell.before('/');
    return context.error(cell, fmt::format("{} has more than one ':'", quote(cell.text)),
                         Address::parse(base.text)
                             ? fmt::format("an IPv6 address stands in brackets: [{}]{}", base.text,
                                           cell.text.substr(base.text.size()))
                             : "an IPv6 address stands in brackets: [2001:db8::1]:ssh");
}

std::optional<Location> parse_location(const Cell& cell, const Context& context) {
    const auto text = cell.text;
    if (text[0] == '[') {
        return parse_bracketed_location(cell, context);
    }
    const auto colons = std::ranges::count(text, ':');
    if (colons > 1) {
        return too_many_colons(cell, context);
    }
    if (colons == 1) {
        const Cell host = cell.before(':');
        const auto location = parse_host(host, context);
        return location ? with_port(*location, cell.part(host.text.size() + 1), context)
                        : std::nullopt;
    }
    if (text == "*" || text.find('/') != npos || text.find('.') != npos) {
        return parse_host(cell, context);
    }
    if (!context.names.port(text) && !is_digit(text[0]) && LocalNames::interface_exists(text)) {
        return parse_interface(cell, context);
    }
    return with_port({}, cell, context);
}

} // namespace egress::policy
