#include "helper/fields.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include <fmt/format.h>
#include <netinet/in.h>

namespace egress::helper {

namespace {

struct Protocol {
    std::string_view name;
    std::uint8_t number;
    bool has_ports;
};

/// Names of protocols that a caller may use; only the first two are ever printed as names.
constexpr std::array<Protocol, 8> protocols = {{{"tcp", IPPROTO_TCP, true},
                                                {"udp", IPPROTO_UDP, true},
                                                {"dccp", IPPROTO_DCCP, true},
                                                {"sctp", IPPROTO_SCTP, true},
                                                {"udplite", IPPROTO_UDPLITE, true},
                                                {"icmp", IPPROTO_ICMP, false},
                                                {"ipv6-icmp", IPPROTO_ICMPV6, false},
                                                {"icmpv6", IPPROTO_ICMPV6, false}}};

bool has_ports(std::uint8_t protocol) {
    return protocol == 0 || std::ranges::any_of(protocols, [=](const Protocol& known) {
               return known.number == protocol && known.has_ports;
           });
}

/// Decimal digits without leading zeros, nothing else.
template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
    Number value{};
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = ec == std::errc{} && end == text.data() + text.size();
    const bool plain = whole && text[0] != '-' && (text[0] != '0' || text.size() == 1);
    return plain ? std::optional(value) : std::nullopt;
}

/// True for both spellings of "any": "*" in a line, "" as an argument.
bool is_any(std::string_view text) {
    return text.empty() || text == "*";
}

Result<std::uint8_t> parse_protocol(std::string_view text) {
    if (is_any(text)) {
        return std::uint8_t{0};
    }
    const auto* known = std::ranges::find(protocols, text, &Protocol::name);
    if (known != protocols.end()) {
        return known->number;
    }
    const auto number = parse_number<std::uint8_t>(text);
    if (!number || *number == 0) {
        return fail(
            fmt::format("protocol {} is neither tcp, udp, a number 1..255 nor any", shown(text)));
    }
    return *number;
}

Result<std::uint16_t> parse_port(std::string_view text) {
    if (is_any(text)) {
        return std::uint16_t{0};
    }
    const auto port = parse_number<std::uint16_t>(text);
    if (!port || *port == 0) {
        return fail(fmt::format("port {} is neither a number 1..65535 nor any", shown(text)));
    }
    return *port;
}

Result<Prefix> parse_source(std::string_view address_text, std::string_view length_text) {
    const auto address = Address::parse(address_text);
    if (!address) {
        return fail(fmt::format("address {} is not an IP address", shown(address_text)));
    }
    const auto given = parse_number<std::uint8_t>(length_text);
    const bool mapped = address->is_v4() && address_text.find(':') != std::string_view::npos;
    const int lowest = mapped ? 96 : 0;
    const int highest = mapped ? 128 : address->width();
    if (!given || *given < lowest || *given > highest) {
        return fail(fmt::format("mask length {} of {} is not a number {}..{}", shown(length_text),
                                address->text(), lowest, highest));
    }
    const Prefix prefix = Prefix::around(*address, *given - lowest);
    if (prefix.base != *address) {
        return fail(fmt::format("{}/{} has host bits set: {} is the prefix", address->text(),
                                prefix.length, prefix.text()));
    }
    return prefix;
}

Result<std::uint64_t> parse_seconds(std::string_view text) {
    if (text == "*") {
        return for_ever;
    }
    const auto seconds = parse_number<std::uint64_t>(text);
    if (!seconds || *seconds == 0 || *seconds > max_seconds) {
        return fail(fmt::format("time {} is neither a number of seconds 1..{} nor *", shown(text),
                                max_seconds));
    }
    return *seconds;
}

Result<Action> parse_action(std::string_view text) {
    if (text == "drop") {
        return Action::drop;
    }
    if (text == "reject") {
        return Action::reject;
    }
    return fail(fmt::format("action {} is neither drop nor reject", shown(text)));
}

/// PROTO ADDR MASKLEN PORT
Result<Target> parse_target(std::span<const std::string_view> fields) {
    const auto protocol = parse_protocol(fields[0]);
    if (!protocol) {
        return std::unexpected(protocol.error());
    }
    const auto source = parse_source(fields[1], fields[2]);
    if (!source) {
        return std::unexpected(source.error());
    }
    const auto port = parse_port(fields[3]);
    if (!port) {
        return std::unexpected(port.error());
    }
    if (*port != 0 && !has_ports(*protocol)) {
        return fail(fmt::format("protocol {} has no ports: port must be any", *protocol));
    }
    return Target{*source, *protocol, *port};
}

} // namespace

bool printable(char c) {
    return c >= 0x20 && c <= 0x7e;
}

std::string shown(std::string_view text) {
    constexpr std::size_t limit = 48;
    std::string out = "\"";
    for (const char c : text.substr(0, limit)) {
        out += printable(c) ? c : '?';
    }
    out += text.size() > limit ? "...\"" : "\"";
    return out;
}

bool is_name(std::string_view text) {
    const auto alphanumeric = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    return !text.empty() && text.size() <= 63 && alphanumeric(text[0]) &&
           std::ranges::all_of(
               text, [&](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

std::string_view action_name(Action action) {
    switch (action) {
    case Action::drop:
        return "drop";
    case Action::reject:
        return "reject";
    case Action::pass:
        return "pass";
    case Action::hold:
        break;
    }
    return "hold";
}

std::optional<std::uint64_t> parse_id(std::string_view line) {
    const auto id = parse_number<std::uint64_t>(line.substr(0, line.find(' ')));
    return id && *id != 0 ? id : std::nullopt;
}

Result<Block> parse_block(std::span<const std::string_view> fields, bool whole) {
    Block block;
    const auto target = parse_target(fields);
    if (!target) {
        return std::unexpected(target.error());
    }
    block.target = *target;
    if (whole) {
        const auto seconds = parse_seconds(fields[4]);
        const auto action = parse_action(fields[5]);
        if (!seconds || !action) {
            return std::unexpected(!seconds ? seconds.error() : action.error());
        }
        block.seconds = *seconds;
        block.action = *action;
    }
    return block;
}

Result<std::string> parse_name(std::string_view text) {
    if (!is_name(text)) {
        return fail(fmt::format(
            "name {} is not 1..63 letters, digits, '.', '_', '-', the first a letter or digit",
            shown(text)));
    }
    return std::string(text);
}

} // namespace egress::helper
