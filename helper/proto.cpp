#include "helper/proto.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>
#include <netinet/in.h>

#include "helper/fields.h"

namespace egress::helper {

namespace {

constexpr std::array<std::string_view, 13> verbs = {"add",    "rem",  "flush", "list", "names",
                                                    "sync",   "elem", "end",   "kill", "ping",
                                                    "exempt", "pass", "hold"};

/// The form of the fields after "ID VERB", for each verb.
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
    case Verb::pass:
    case Verb::hold:
        return {false, true, false, "PROTO ADDR MASKLEN PORT"};
    case Verb::names:
    case Verb::end:
    case Verb::exempt:
    case Verb::ping:
        break;
    }
    return {false, false, false, "nothing"};
}

constexpr std::size_t max_fields = 9; ///< of an add

/// The fields of a line; nullopt: blanks are not single, or there are too many fields.
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

/// Parses the fields after "ID VERB".
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
        // Ignore the ID: the target is sufficient.
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

void append(std::string& out, const Target& target) {
    const auto to = std::back_inserter(out);
    switch (target.protocol) {
    case 0:
        out += '*';
        break;
    case IPPROTO_TCP:
        out += "tcp";
        break;
    case IPPROTO_UDP:
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
