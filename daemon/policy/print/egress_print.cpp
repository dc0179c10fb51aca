#include "daemon/policy/print/egress_print.h"

#include <array>

#include <fmt/format.h>
#include <sys/socket.h>

#include "daemon/policy/egress/options.h"

namespace egress::policy {

namespace {

std::string print_host(const Destination& destination) {
    using Kind = Destination::Kind;
    const auto& text = destination.text;
    switch (destination.kind) {
    case Kind::any:
        return "*";
    case Kind::prefix:
        return print_prefix(destination.prefix);
    case Kind::name: // a host may have the name of a class
        return class_of(text) ? text + "." : text;
    case Kind::below:
        return "*." + text;
    case Kind::any_below:
        return "**." + text;
    case Kind::list:
        return "@" + text;
    case Kind::socket:
        return "unix:" + text;
    case Kind::internet:
    case Kind::private_:
    case Kind::local:
    case Kind::multicast:
    case Kind::broadcast:
        break;
    }
    return std::string(class_name(destination.kind));
}

std::string print_destination(const Destination& destination) {
    auto out = print_host(destination);
    char separator = ':';
    for (const auto& range : destination.ports) {
        out += separator;
        out += range.first == range.last ? fmt::format("{}", range.first)
                                         : fmt::format("{}-{}", range.first, range.last);
        separator = ',';
    }
    return out;
}

std::string print_owner(const EgressOwner& owner) {
    std::string out = owner.uid ? fmt::format("{}", *owner.uid) : owner.gid ? "" : "*";
    return owner.gid ? fmt::format("{}:{}", out, *owner.gid) : out;
}

std::string print_program(const Program& program) {
    return program.kind == Program::Kind::any    ? "*"
           : program.kind == Program::Kind::tree ? program.text + "/**"
                                                 : program.text;
}

std::string print_verdict(const Verdict& verdict) {
    std::string out(verdict_name(verdict.kind));
    if (verdict.kind == Verdict::Kind::redirect) {
        const auto host = print_prefix(Prefix::host(verdict.target.address));
        out += fmt::format("={}:{}", host, verdict.target.port);
    }
    return out;
}

std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) { // '#' is the only character with a meaning of its own
        out += c == '#' ? "\\#" : std::string(1, c);
    }
    return out;
}

} // namespace

Row egress_columns(const EgressRule& rule) {
    Row row = {
        print_destination(rule.destination),  rule.type == SOCK_RAW ? "raw" : print_type(rule.type),
        print_protocol(rule.protocol),        print_owner(rule.owner),
        escaped(print_program(rule.program)), print_verdict(rule.verdict)};
    if (auto options = print_options(rule.options); !options.empty()) {
        row.push_back(escaped(options));
    }
    return row;
}

} // namespace egress::policy
