#include "daemon/policy/text/host.h"

#include <algorithm>

#include <fmt/format.h>

#include "daemon/policy/text/number.h"

namespace egress::policy {

bool looks_like_v4(std::string_view text) {
    return text.find('.') != std::string_view::npos &&
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
        // blocklistd's files have such lines, and they block no more here than there.
        if (context.section == Section::egress) {
            return context.error(whole, what, fmt::format("did you mean {}?", right));
        }
        context.out.warn(whole.place(), what,
                         fmt::format("did you mean {}? It is read as that", right));
    }
    return prefix;
}

namespace {

/// The length of an address that a zone follows, as in fe80::1%eth0; 0: there is none. The kernel's
/// hooks and sockets' addresses do not show the interface.
std::size_t before_zone(std::string_view text) {
    const auto at = text.find('%');
    return at != std::string_view::npos && Address::parse(text.substr(0, at)) ? at : 0;
}

std::nullopt_t has_zone(const Cell& cell, std::size_t length, const Context& context) {
    return context.error(
        cell,
        fmt::format("{} names an interface, and a line holds on all of them", quote(cell.text)),
        fmt::format("write [{}]", cell.text.substr(0, length)));
}

} // namespace

std::optional<Bracketed> parse_bracketed(const Cell& cell, const Context& context) {
    const auto close = cell.text.find(']');
    if (close == std::string_view::npos) {
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
    if (const auto until = before_zone(inside.text); until > 0) {
        return has_zone(inside, until, context);
    }
    const auto address = Address::parse(inside.text);
    if (!address || inside.text.find(':') == std::string_view::npos) {
        return context.error(inside, fmt::format("{} is not an IPv6 address", quote(inside.text)),
                             inside.text.find('/') == std::string_view::npos
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
    if (const auto until = before_zone(base.text); until > 0) {
        return has_zone(cell, until, context);
    }
    return context.error(cell, fmt::format("{} has more than one ':'", quote(cell.text)),
                         Address::parse(base.text)
                             ? fmt::format("an IPv6 address stands in brackets: [{}]{}", base.text,
                                           cell.text.substr(base.text.size()))
                             : "an IPv6 address stands in brackets: [2001:db8::1]:ssh");
}

} // namespace egress::policy
