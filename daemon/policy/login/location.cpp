#include "daemon/policy/login/location.h"

#include <algorithm>

#include <fmt/format.h>
#include <net/if.h>

#include "daemon/policy/text/host.h"
#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

constexpr auto npos = std::string_view::npos;
constexpr std::string_view self = "self"; ///< every address of this host

Location at(const Prefix& prefix) {
    Location location;
    location.prefix = prefix;
    return location;
}

bool is_interface_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '-' ||
           c == '_' || c == '.' || c == '@' || c == '+';
}

/// "eth0", "ppp0", "br-lan", "eth0.100": interfaces that may appear later. Another name with a dot
/// is more likely a host's, and one of digits half an address: they count only while the interface
/// exists.
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

/// An interface may have any name, also "self".
bool is_local_interface(std::string_view name, const Context& context) {
    return !context.remote() && LocalNames::interface_exists(name);
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
    Location location;
    location.prefix = inside->prefix;
    return inside->port.text.empty() ? std::optional(location)
                                     : with_port(location, inside->port.part(1), context);
}

/// "self", which only [remote] takes.
std::optional<Location> parse_self(const Cell& host, const Context& context) {
    if (!context.remote()) {
        return context.error(host, "'self' stands in [remote] only",
                             "it means clients on this host; for its services write the port, or "
                             "the address");
    }
    Location location;
    location.self = true;
    return location;
}

/// The part before a ':', or the whole cell, if it is no address.
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
        return prefix ? std::optional(at(*prefix)) : std::nullopt;
    }
    if (!length.text.empty() && (base.text == "*" || may_be_interface(base.text)) &&
        !looks_like_v4(base.text)) {
        return context.error(length, fmt::format("{} takes no prefix length", quote(base.text)));
    }
    if (base.text == self && length.text.empty() && !is_local_interface(base.text, context)) {
        return parse_self(base, context);
    }
    return base.text == "*" ? std::optional(Location{}) : parse_interface(base, context);
}

} // namespace

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
    if (text == self && !is_local_interface(text, context)) {
        return parse_self(cell, context);
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
