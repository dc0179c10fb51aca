#include "ctl/values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include <fmt/format.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>

#include "ctl/out.h"
#include "daemon/policy/rules/rule.h"

namespace egress::ctl {

namespace {

std::unexpected<Failure> wrong(std::string_view what, std::string_view word,
                               std::string_view hint) {
    return fail(Exit::usage, fmt::format("'{}' is not {}; {}", printable(word), what, hint));
}

/// All of `digits` as a number of at most `most`.
template <typename T>
std::optional<T> whole_number(std::string_view digits, T most) {
    T value{};
    const auto* const last = digits.data() + digits.size();
    const auto [end, error] = std::from_chars(digits.data(), last, value);
    const bool good = !digits.empty() && digits[0] >= '0' && digits[0] <= '9' &&
                      error == std::errc{} && end == last && value <= most;
    return good ? std::optional(value) : std::nullopt;
}

/// Port number or name of the system's services; nullopt: neither.
std::optional<std::uint16_t> port_of(std::string_view text) {
    if (const auto number = whole_number<std::uint32_t>(text, 65535); number && *number > 0) {
        return static_cast<std::uint16_t>(*number);
    }
    const std::string name(text);
    if (name.empty() || (name[0] >= '0' && name[0] <= '9')) {
        return std::nullopt;
    }
    servent entry{};
    servent* found = nullptr;
    char buffer[4096];
    getservbyname_r(name.c_str(), nullptr, &entry, buffer, sizeof buffer, &found);
    return found == nullptr ? std::nullopt
                            : std::optional(ntohs(static_cast<std::uint16_t>(found->s_port)));
}

/// The parts of a target, before and after the port's colon.
struct Split {
    std::string address; ///< without brackets
    std::optional<std::string_view> length;
    std::optional<std::string_view> port;
};

/// Splits by the brackets, the slash and the last colon; nullopt: unbalanced brackets.
std::optional<Split> split_target(std::string_view text) {
    Split split;
    std::string_view rest;
    if (text.starts_with('[')) {
        const auto close = text.find(']');
        if (close == std::string_view::npos) {
            return std::nullopt;
        }
        split.address = text.substr(1, close - 1);
        rest = text.substr(close + 1);
    } else {
        const bool one_colon = std::ranges::count(text, ':') == 1;
        const auto end = std::min(text.find('/'), one_colon ? text.find(':') : text.size());
        split.address = text.substr(0, end);
        rest = text.substr(std::min(end, text.size()));
    }
    if (rest.starts_with('/')) {
        const auto colon = rest.find(':');
        split.length = rest.substr(1, colon == std::string_view::npos ? colon : colon - 1);
        rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon);
    }
    if (rest.starts_with(':')) {
        split.port = rest.substr(1);
        rest = {};
    }
    return rest.empty() ? std::optional(split) : std::nullopt;
}

Outcome<Prefix> parse_prefix(std::string_view whole, const Split& split) {
    const auto address = Address::parse(split.address);
    if (!address) {
        return wrong("an address", whole,
                     "write 192.0.2.1, 192.0.2.0/24:22 or [2001:db8::1]/64:22; names are not "
                     "looked up");
    }
    int length = address->width();
    if (split.length) {
        const auto number = whole_number<int>(*split.length, address->width());
        if (!number) {
            return wrong("a prefix length", *split.length,
                         fmt::format("write /0 to /{}", address->width()));
        }
        length = *number;
    }
    const auto prefix = Prefix::around(*address, length);
    if (prefix.base != *address) {
        return wrong("a prefix", whole,
                     fmt::format("bits are set past /{}; did you mean {}?", length, prefix.text()));
    }
    return prefix;
}

} // namespace

std::string Target::text() const {
    auto result = prefix.text();
    if (port) {
        result = prefix.base.is_v4() ? result
                                     : fmt::format("[{}]/{}", prefix.base.text(), prefix.length);
        result += fmt::format(":{}", *port);
    }
    return result;
}

Outcome<Target> parse_target(std::string_view text) {
    const auto split = split_target(text);
    if (!split) {
        return wrong("an address", text, "write 192.0.2.1, 192.0.2.0/24:22 or [2001:db8::1]/64:22");
    }
    const auto prefix = parse_prefix(text, *split);
    if (!prefix) {
        return std::unexpected(prefix.error());
    }
    Target target{*prefix, std::nullopt};
    if (split->port && *split->port != "*") {
        target.port = port_of(*split->port);
        if (!target.port) {
            return wrong("a port", *split->port,
                         "write 1 to 65535, a service's name, or * for every port");
        }
    }
    return target;
}

Outcome<Seconds> parse_time(std::string_view text) {
    // The rules file's grammar, where a last number without a unit is seconds.
    constexpr std::string_view hint = "write 90s, 10m, 1h30m, 7d, 2w, or * for ever";
    if (text == "*") {
        return forever;
    }
    Seconds total = 0;
    for (auto rest = text; !rest.empty();) {
        const auto end = std::min(rest.find_first_not_of("0123456789"), rest.size());
        const auto count = whole_number<Seconds>(rest.substr(0, end), policy::max_duration);
        const Seconds unit = end == rest.size() ? 1 : unit_seconds(rest[end]);
        if (!count || unit == 0) {
            return wrong("a time", text, hint);
        }
        total += *count * unit; // far from overflow: both are bounded, and so is the sum below
        if (total > policy::max_duration) {
            return wrong("a time that can be kept", text,
                         fmt::format("at most {} seconds, or * for ever", policy::max_duration));
        }
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    if (total == 0) {
        return wrong("a time", text, hint);
    }
    return total;
}

Outcome<std::string> parse_name(std::string_view text) {
    const auto plain = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    const auto allowed = [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; };
    if (text.empty() || text.size() > 63 || !plain(text[0]) ||
        !std::ranges::all_of(text, allowed)) {
        return wrong("a rule's name", text,
                     "use up to 63 letters, digits, '.', '_' and '-', a letter or digit first");
    }
    return std::string(text);
}

Outcome<std::string> parse_reason(std::string_view text) {
    if (text.size() > 256) {
        return fail(Exit::usage,
                    fmt::format("the reason has {} bytes; at most 256 are kept", text.size()));
    }
    if (!is_printable(text)) {
        return wrong("a reason", text, "use printable UTF-8 text on one line");
    }
    return std::string(text);
}

Outcome<User> parse_user(std::string_view text) {
    constexpr std::uint32_t most = 0xfffffffe; // the last one means "none"
    const auto number = whole_number<std::uint32_t>(text, most);
    const std::string name(text);
    std::vector<char> buffer(16384);
    passwd entry{};
    passwd* found = nullptr;
    if (number) {
        getpwuid_r(*number, &entry, buffer.data(), buffer.size(), &found);
    } else if (!name.empty()) {
        getpwnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    }
    if (found == nullptr && !number) {
        return wrong("a user", text, "write a name that this system knows, or a number");
    }
    return found == nullptr ? User{*number, std::nullopt} : User{found->pw_uid, found->pw_gid};
}

Outcome<std::uint32_t> parse_group(std::string_view text) {
    constexpr std::uint32_t most = 0xfffffffe;
    if (const auto number = whole_number<std::uint32_t>(text, most)) {
        return *number;
    }
    const std::string name(text);
    std::vector<char> buffer(65536);
    group entry{};
    group* found = nullptr;
    getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (name.empty() || found == nullptr) {
        return wrong("a group", text, "write a name that this system knows, or a number");
    }
    return found->gr_gid;
}

Outcome<std::string> parse_protocol(std::string_view text) {
    if (text == "*") {
        return std::string{};
    }
    const std::string name(text);
    auto number = whole_number<int>(text, 255);
    if (!number) {
        protoent entry{};
        protoent* found = nullptr;
        char buffer[4096];
        getprotobyname_r(name.c_str(), &entry, buffer, sizeof buffer, &found);
        number = found != nullptr ? std::optional(found->p_proto) : std::nullopt;
    }
    if (name == "tcp" || number == IPPROTO_TCP) {
        return std::string("tcp");
    }
    if (name == "udp" || number == IPPROTO_UDP) {
        return std::string("udp");
    }
    if (!number || *number == 0) {
        return wrong("a protocol", text, "write tcp, udp, 1 to 255, or * for every protocol");
    }
    return std::to_string(*number);
}

Outcome<long> parse_timeout(std::string_view text) {
    double seconds = 0;
    const auto* const last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, seconds, std::chars_format::fixed);
    if (error != std::errc{} || end != last || !std::isfinite(seconds) || seconds < 0.001 ||
        seconds > 86400) {
        return wrong("a number of seconds", text, "write 0.001 to 86400");
    }
    return std::lround(seconds * 1000);
}

} // namespace egress::ctl
