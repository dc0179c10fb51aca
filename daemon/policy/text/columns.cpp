#include "daemon/policy/text/columns.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>
#include <vector>

#include <fmt/format.h>
#include <netinet/in.h>

#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

struct ProtocolWord {
    std::string_view text;
    Protocol protocol;
};
// IANA's names; a machine may have no /etc/protocols.
constexpr std::array<ProtocolWord, 17> protocols = {{{"tcp", {IPPROTO_TCP, AF_UNSPEC}},
                                                     {"tcp4", {IPPROTO_TCP, AF_INET}},
                                                     {"tcp6", {IPPROTO_TCP, AF_INET6}},
                                                     {"udp", {IPPROTO_UDP, AF_UNSPEC}},
                                                     {"udp4", {IPPROTO_UDP, AF_INET}},
                                                     {"udp6", {IPPROTO_UDP, AF_INET6}},
                                                     {"sctp", {IPPROTO_SCTP, AF_UNSPEC}},
                                                     {"dccp", {IPPROTO_DCCP, AF_UNSPEC}},
                                                     {"udplite", {IPPROTO_UDPLITE, AF_UNSPEC}},
                                                     {"icmp", {IPPROTO_ICMP, AF_UNSPEC}},
                                                     {"icmp6", {IPPROTO_ICMPV6, AF_UNSPEC}},
                                                     {"ipv6-icmp", {IPPROTO_ICMPV6, AF_UNSPEC}},
                                                     {"igmp", {IPPROTO_IGMP, AF_UNSPEC}},
                                                     {"gre", {IPPROTO_GRE, AF_UNSPEC}},
                                                     {"esp", {IPPROTO_ESP, AF_UNSPEC}},
                                                     {"ah", {IPPROTO_AH, AF_UNSPEC}},
                                                     {"ospf", {89, AF_UNSPEC}}}};
constexpr std::size_t served = 9; // the first ones, which services use

/// "*", and in [remote] "=": a [remote] line applies after a [local] line has matched, so "as in
/// [local]" is true there already.
bool is_any(const Cell& cell, const Context& context) {
    return cell.text == "*" || (context.remote() && cell.text == "=");
}

/// True: "=" has nothing to inherit from here, which is reported.
bool stray_equals(const Cell& cell, const Context& context, std::string_view column) {
    if (cell.text != "=" || context.remote()) {
        return false;
    }
    context.out.error(cell.place(), fmt::format("'=' for {} outside [remote]", column),
                      "'=' takes over what the [local] line says; there is none here");
    return true;
}

bool starts_as_number(std::string_view text) {
    return !text.empty() && text[0] >= '0' && text[0] <= '9';
}

/// A name that useradd would take.
bool may_be_user(std::string_view text) {
    constexpr std::size_t most = 32;
    const auto letter = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    };
    return !text.empty() && text.size() <= most && letter(text[0]) &&
           std::ranges::all_of(text, [&](char c) {
               return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '$';
           });
}

bool is_name_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

/// "24", "64", "24/64", "*", "=": the part after the name's '/'.
std::optional<Aggregate> parse_aggregate(const Cell& cell, const Context& context, int family) {
    if (cell.text == "*") {
        return Aggregate{32, 128, false};
    }
    if (stray_equals(cell, context, "the length")) {
        return std::nullopt;
    }
    if (cell.text == "=") {
        return Aggregate{{}, {}, true};
    }
    const Cell first = cell.before('/');
    if (first.text.size() < cell.text.size()) {
        const auto v4 = parse_number(first, context, "length for IPv4", 1, 32);
        const auto v6 =
            parse_number(cell.part(first.text.size() + 1), context, "length for IPv6", 1, 128);
        return v4 && v6 ? std::optional(Aggregate{static_cast<std::uint8_t>(*v4),
                                                  static_cast<std::uint8_t>(*v6), false})
                        : std::nullopt;
    }
    const auto length = parse_number(cell, context, "length", 1, family == AF_INET ? 32 : 128);
    if (!length) {
        return std::nullopt;
    }
    Aggregate out;
    (family == AF_INET6 || *length > 32 ? out.v6 : out.v4) = static_cast<std::uint8_t>(*length);
    return out;
}

/// The part before the '/': kind and text.
std::optional<Name> parse_plain_name(const Cell& cell, const Context& context) {
    if (cell.text == "*") {
        return Name{};
    }
    if (cell.text.empty()) { // only "/len": the name that holds without this column
        return Name{context.remote() ? Name::Kind::inherit : Name::Kind::standard, {}, {}};
    }
    if (stray_equals(cell, context, "the name")) {
        return std::nullopt;
    }
    if (cell.text == "=") {
        return Name{Name::Kind::inherit, {}, {}};
    }
    const bool append = cell.text[0] == '-';
    const auto bad = std::ranges::find_if_not(cell.text, is_name_character);
    if (bad != cell.text.end() || cell.text == "-" || cell.text[0] == '.') {
        return context.error(cell, fmt::format("bad name {}", quote(cell.text)),
                             "letters, digits, '-', '_' and '.' make a name; '-x' appends to the "
                             "default one");
    }
    if (cell.text.size() > (append ? max_suffix : max_name)) {
        return context.error(cell, fmt::format("name {} is too long", quote(cell.text)),
                             fmt::format("{} bytes are the most", append ? max_suffix : max_name));
    }
    return Name{append ? Name::Kind::append : Name::Kind::literal, std::string(cell.text), {}};
}

} // namespace

bool parse_type(const Cell& cell, const Context& context, std::optional<int>& out) {
    out.reset();
    if (is_any(cell, context)) {
        return true;
    }
    if (stray_equals(cell, context, "the type")) {
        return false;
    }
    constexpr std::array<std::string_view, 3> words = {"stream", "dgram", "raw"};
    static_assert(SOCK_STREAM == 1 && SOCK_DGRAM == 2 && SOCK_RAW == 3);
    const bool egress = context.section == Section::egress;
    // No log-in uses a raw socket.
    const auto known = std::span(words).first(egress ? 3 : 2);
    const auto at = std::ranges::find(known, cell.text);
    if (at != known.end()) {
        out = static_cast<int>(at - known.begin()) + 1;
        return true;
    }
    if (!starts_as_number(cell.text)) {
        context.error(cell, fmt::format("unknown type {}", quote(cell.text)),
                      suggestion(cell.text, known,
                                 egress ? "write stream, dgram, raw, a number or '*'"
                                        : "write stream, dgram, a number or '*'"));
        return false;
    }
    // Types above 6 (SOCK_DCCP) do not use IP.
    if (const auto number = parse_number(cell, context, "socket type", 1, egress ? 6 : 10)) {
        out = static_cast<int>(*number);
    }
    return out.has_value();
}

std::optional<Protocol> parse_protocol(const Cell& cell, const Context& context) {
    if (is_any(cell, context)) {
        return Protocol{};
    }
    if (stray_equals(cell, context, "the protocol")) {
        return std::nullopt;
    }
    const auto known =
        std::span(protocols).first(context.section == Section::egress ? protocols.size() : served);
    const auto at = std::ranges::find(known, cell.text, &ProtocolWord::text);
    if (at != known.end()) {
        return at->protocol;
    }
    if (!starts_as_number(cell.text)) {
        std::vector<std::string_view> texts;
        std::ranges::transform(known, std::back_inserter(texts), &ProtocolWord::text);
        return context.error(
            cell, fmt::format("unknown protocol {}", quote(cell.text)),
            suggestion(cell.text, texts, "write tcp, udp, tcp6, udp6, a number or '*'"));
    }
    const auto number = parse_number(cell, context, "protocol", 1, 255);
    return number ? std::optional(Protocol{static_cast<int>(*number), AF_UNSPEC}) : std::nullopt;
}

bool parse_owner(const Cell& cell, const Context& context, std::optional<std::uint32_t>& out,
                 std::string& absent) {
    out.reset();
    absent.clear();
    if (is_any(cell, context)) {
        return true;
    }
    if (stray_equals(cell, context, "the owner")) {
        return false;
    }
    if (const auto uid = context.names.uid(cell.text)) {
        out = *uid;
        return true;
    }
    if (!starts_as_number(cell.text)) {
        const auto users = context.names.users();
        const auto text = fmt::format("unknown user {}", quote(cell.text));
        if (!may_be_user(cell.text)) {
            context.error(
                cell, text,
                suggestion(cell.text, users, "it is not in /etc/passwd; write the user's number"));
            return false;
        }
        context.out.warn(
            cell.place(), text + ": the line matches no report",
            suggestion(cell.text, users, "when there is such a user, reload the rules"));
        out = no_user;
        absent = cell.text;
        return true;
    }
    // (uid_t) -1 is "no user" to the kernel.
    if (const auto number = parse_number(cell, context, "uid", 0, 0xfffffffe)) {
        out = static_cast<std::uint32_t>(*number);
    }
    return out.has_value();
}

std::optional<Name> parse_name(const Cell& cell, const Context& context, int family) {
    const Cell plain = cell.before('/');
    auto name = parse_plain_name(plain, context);
    if (plain.text.size() == cell.text.size()) {
        return name;
    }
    const auto aggregate = parse_aggregate(cell.part(plain.text.size() + 1), context, family);
    if (!name || !aggregate) {
        return std::nullopt;
    }
    name->aggregate = *aggregate;
    if (name->kind == Name::Kind::inherit) {
        name->aggregate.inherit = false; // "=/=" means the same as "="
    }
    return name;
}

std::optional<Setting<std::uint32_t>> parse_nfail(const Cell& cell, const Context& context) {
    using Kind = Setting<std::uint32_t>::Kind;
    if (cell.text == "*") {
        return Setting<std::uint32_t>{Kind::unlimited, 0};
    }
    if (stray_equals(cell, context, "nfail")) {
        return std::nullopt;
    }
    if (cell.text == "=") {
        return Setting<std::uint32_t>{Kind::inherit, 0};
    }
    const auto number = parse_number(cell, context, "nfail", 0, 2147483647);
    if (!number) {
        return std::nullopt;
    }
    if (*number == 0) {
        context.out.warn(cell.place(), "nfail 0 blocks at the first failure, as 1 does",
                         "write 1, or '*' for never");
    }
    return Setting<std::uint32_t>{Kind::value, std::max(1U, static_cast<std::uint32_t>(*number))};
}

std::optional<Setting<Seconds>> parse_disable(const Cell& cell, const Context& context) {
    using Kind = Setting<Seconds>::Kind;
    if (cell.text == "*") {
        return Setting<Seconds>{Kind::unlimited, 0};
    }
    if (stray_equals(cell, context, "disable")) {
        return std::nullopt;
    }
    if (cell.text == "=") {
        return Setting<Seconds>{Kind::inherit, 0};
    }
    const auto seconds = parse_duration(cell, context);
    if (!seconds) {
        return std::nullopt;
    }
    if (*seconds == 0) {
        context.out.warn(cell.place(), "a time of 0 blocks no address", "write '*' for ever");
    }
    return Setting<Seconds>{Kind::value, *seconds};
}

} // namespace egress::policy
