#include "helper/proto.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include <fmt/format.h>

namespace egress::helper {

namespace {

constexpr std::array<std::string_view, 10> verbs = {"add",  "rem",  "flush", "list", "names",
                                                    "sync", "elem", "end",   "kill", "ping"};

struct Protocol {
    std::string_view name;
    std::uint8_t number;
    bool has_ports;
};

/// Names of protocols that a caller may use; only the first two are ever printed as names.
constexpr std::array<Protocol, 8> protocols = {{{"tcp", 6, true},
                                                {"udp", 17, true},
                                                {"dccp", 33, true},
                                                {"sctp", 132, true},
                                                {"udplite", 136, true},
                                                {"icmp", 1, false},
                                                {"ipv6-icmp", 58, false},
                                                {"icmpv6", 58, false}}};

bool has_ports(std::uint8_t protocol) {
    return protocol == 0 || std::ranges::any_of(protocols, [=](const Protocol& known) {
               return known.number == protocol && known.has_ports;
           });
}

bool printable(char c) {
    return c >= 0x20 && c <= 0x7e;
}

/// What a peer wrote, for an error text: quoted, printable, short.
std::string shown(std::string_view text) {
    constexpr std::size_t limit = 48;
    std::string out = "\"";
    for (const char c : text.substr(0, limit)) {
        out += printable(c) ? c : '?';
    }
    out += text.size() > limit ? "...\"" : "\"";
    return out;
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

/// Both spellings of "any": "*" on a line, "" as an argument.
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

/// The fields after NAME: a target, then SECONDS ACTION where `whole`.
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

/// What follows "ID VERB" for each verb.
struct Form {
    bool name;
    bool target;
    bool lifetime; ///< SECONDS ACTION
    std::string_view usage;
};

Form form_of(Verb verb) {
    switch (verb) {
    case Verb::add:
        return {true, true, true, "NAME PROTO ADDR MASKLEN PORT SECONDS ACTION"};
    case Verb::rem:
        return {true, true, false, "NAME PROTO ADDR MASKLEN PORT"};
    case Verb::flush:
    case Verb::list:
    case Verb::sync:
        return {true, false, false, "NAME"};
    case Verb::elem:
        return {false, true, true, "PROTO ADDR MASKLEN PORT SECONDS ACTION"};
    case Verb::kill:
        return {false, true, false, "PROTO ADDR MASKLEN PORT"};
    case Verb::names:
    case Verb::end:
    case Verb::ping:
        break;
    }
    return {false, false, false, "nothing"};
}

constexpr std::size_t max_fields = 9; ///< of an add

/// The fields of a line, or nothing where blanks are not single or there are too many.
std::optional<std::span<std::string_view>> split(std::string_view line,
                                                 std::array<std::string_view, max_fields>& out) {
    std::size_t count = 0;
    while (true) {
        const auto blank = line.find(' ');
        const auto field = line.substr(0, blank);
        if (field.empty() || count == out.size()) {
            return std::nullopt;
        }
        out[count++] = field;
        if (blank == std::string_view::npos) {
            return std::span(out).first(count);
        }
        line.remove_prefix(blank + 1);
    }
}

Result<std::string> parse_name(std::string_view text) {
    if (!is_name(text)) {
        return fail(fmt::format(
            "name {} is not 1..63 letters, digits, '.', '_', '-', the first a letter or digit",
            shown(text)));
    }
    return std::string(text);
}

/// Everything after "ID VERB".
Result<Request> parse_arguments(std::uint64_t id, Verb verb,
                                std::span<const std::string_view> fields) {
    const Form form = form_of(verb);
    const std::size_t wanted =
        (form.name ? 1U : 0U) + (form.target ? 4U : 0U) + (form.lifetime ? 2U : 0U);
    if (fields.size() != wanted) {
        return fail(fmt::format("{} takes {}", verb_name(verb), form.usage));
    }
    Request request{id, verb, {}, {}};
    if (form.name) {
        auto name = parse_name(fields[0]);
        if (!name) {
            return std::unexpected(name.error());
        }
        request.name = std::move(*name);
        fields = fields.subspan(1);
    }
    if (form.target) {
        const auto block = parse_block(fields, form.lifetime);
        if (!block) {
            return std::unexpected(block.error());
        }
        request.block = *block;
    }
    return request;
}

} // namespace

bool is_name(std::string_view text) {
    const auto alphanumeric = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    return !text.empty() && text.size() <= 63 && alphanumeric(text[0]) &&
           std::ranges::all_of(
               text, [&](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

std::optional<std::uint64_t> parse_id(std::string_view line) {
    const auto id = parse_number<std::uint64_t>(line.substr(0, line.find(' ')));
    return id && *id != 0 ? id : std::nullopt;
}

Result<Request> parse_request(std::string_view line) {
    if (line.size() >= max_line) {
        return fail(fmt::format("line longer than {} bytes", max_line));
    }
    const auto bad = std::ranges::find_if_not(line, printable);
    if (bad != line.end()) {
        return fail(fmt::format("byte 0x{:02x} in column {} is not printable ASCII",
                                static_cast<unsigned char>(*bad), bad - line.begin() + 1));
    }
    const auto id = parse_id(line);
    if (!id) {
        return fail(
            fmt::format("{} opens with no id: a request is ID VERB ARGUMENTS", shown(line)));
    }
    std::array<std::string_view, max_fields> storage;
    const auto fields = split(line, storage);
    if (!fields || fields->size() < 2) {
        return fail(
            fmt::format("{} is not 2..{} fields with one blank between", shown(line), max_fields));
    }
    const auto* verb = std::ranges::find(verbs, (*fields)[1]);
    if (verb == verbs.end()) {
        return fail("unknown verb");
    }
    return parse_arguments(*id, static_cast<Verb>(verb - verbs.begin()), fields->subspan(2));
}

Result<Event> parse_event(std::span<const char* const> arguments, const char* seconds,
                          const char* action) {
    const std::string_view verb = arguments.empty() ? "" : arguments[0];
    const bool change = verb == "add" || verb == "rem";
    if (!(change && arguments.size() == 7) && !(verb == "flush" && arguments.size() == 2)) {
        return fail("expected add|rem NAME PROTO ADDR MASKLEN PORT ID, or flush NAME", EINVAL);
    }
    auto name = parse_name(arguments[1]);
    if (!name) {
        return std::unexpected(name.error());
    }
    Event event{verb == "add"   ? Verb::add
                : verb == "rem" ? Verb::rem
                                : Verb::flush,
                std::move(*name),
                {}};
    if (change) {
        // The ID is ours to ignore: the target says everything.
        const std::array<std::string_view, 6> fields = {
            arguments[2],
            arguments[3],
            arguments[4],
            arguments[5],
            seconds == nullptr ? "*" : seconds,
            action == nullptr ? "drop" : action,
        };
        const auto block = parse_block(fields, event.verb == Verb::add);
        if (!block) {
            return std::unexpected(block.error());
        }
        event.block = *block;
    }
    return event;
}

std::string_view verb_name(Verb verb) {
    return verbs[static_cast<std::size_t>(verb)];
}

std::string_view action_name(Action action) {
    return action == Action::drop ? "drop" : "reject";
}

void append(std::string& out, const Target& target) {
    const auto to = std::back_inserter(out);
    switch (target.protocol) {
    case 0:
        out += '*';
        break;
    case 6:
        out += "tcp";
        break;
    case 17:
        out += "udp";
        break;
    default:
        fmt::format_to(to, "{}", target.protocol);
    }
    fmt::format_to(to, " {} {} ", target.source.base.text(), target.source.length);
    if (target.port == 0) {
        out += '*';
    } else {
        fmt::format_to(to, "{}", target.port);
    }
}

namespace {

void append_lifetime(std::string& out, const Block& block) {
    if (block.seconds == for_ever) {
        out += " * ";
    } else {
        fmt::format_to(std::back_inserter(out), " {} ", block.seconds);
    }
    out += action_name(block.action);
}

} // namespace

void append(std::string& out, const Element& element) {
    append(out, element.block.target);
    append_lifetime(out, element.block);
    fmt::format_to(std::back_inserter(out), " {}", element.packets);
}

std::string print(const Request& request) {
    const Form form = form_of(request.verb);
    std::string out = fmt::format("{} {}", request.id, verb_name(request.verb));
    if (form.name) {
        out += ' ';
        out += request.name;
    }
    if (form.target) {
        out += ' ';
        append(out, request.block.target);
    }
    if (form.lifetime) {
        append_lifetime(out, request.block);
    }
    return out;
}

std::string error_line(std::uint64_t id, std::string_view text) {
    std::string out = fmt::format("{} err ", id);
    for (const char c : text.substr(0, max_line - 1 - out.size())) {
        out += printable(c) ? c : '?';
    }
    out += '\n';
    return out;
}

} // namespace egress::helper
