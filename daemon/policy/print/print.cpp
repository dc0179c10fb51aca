#include "daemon/policy/print/print.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>
#include <netinet/in.h>

#include "daemon/policy/egress/dns.h"
#include "daemon/policy/login/options.h"
#include "daemon/policy/print/egress_print.h"
#include "daemon/policy/print/print_columns.h"
#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

constexpr std::size_t widest = 40; // one long column must not make every line long

std::string print_location(const Location& location) {
    const auto host = !location.interface.empty() ? location.interface
                      : location.self             ? "self"
                      : location.prefix           ? print_prefix(*location.prefix)
                                                  : "*";
    if (location.port) {
        return host == "*" ? fmt::format("{}", *location.port)
                           : fmt::format("{}:{}", host, *location.port);
    }
    return location.interface.empty() ? host : host + ":*"; // alone, it could mean a service
}

std::string print_name(const Name& name) {
    std::string out = name.text;
    if (name.kind == Name::Kind::standard || name.kind == Name::Kind::inherit) {
        out = name.kind == Name::Kind::standard ? '*' : '=';
    }
    if (name.aggregate.inherit) {
        return out + "/=";
    }
    for (const auto& length : {name.aggregate.v4, name.aggregate.v6}) {
        if (length) {
            out += fmt::format("/{}", *length);
        }
    }
    return out;
}

template <typename T>
std::string print_setting(const Setting<T>& setting, std::string value) {
    using Kind = typename Setting<T>::Kind;
    return setting.kind == Kind::unlimited ? "*" : setting.kind == Kind::inherit ? "=" : value;
}

/// `line` is a Rule or a Trusted.
std::string print_owner(const auto& line) {
    return !line.absent_owner.empty() ? line.absent_owner
           : line.owner               ? fmt::format("{}", *line.owner)
                                      : "*";
}

Row columns(const Rule& rule) {
    Row row = {print_location(rule.location),
               print_type(rule.type),
               print_protocol(rule.protocol),
               print_owner(rule),
               print_name(rule.name),
               print_setting(rule.nfail, fmt::format("{}", rule.nfail.value)),
               print_setting(rule.disable, print_duration(rule.disable.value))};
    if (auto options = print_options(rule.options); !options.empty()) {
        row.push_back(std::move(options));
    }
    return row;
}

Row columns(const Trusted& trusted) {
    Row row = {print_location(trusted.location), print_type(trusted.type),
               print_protocol(trusted.protocol), print_owner(trusted)};
    if (auto options = print_trusted_options(trusted); !options.empty()) {
        row.push_back(std::move(options));
    }
    return row;
}

Row columns(const EgressRule& rule) {
    return egress_columns(rule);
}

/// Prints a section with its columns aligned; prints nothing if it has no lines.
template <typename Lines>
void print_section(std::string& out, std::string_view name, const Row& titles, const Lines& lines) {
    if (lines.empty()) {
        return;
    }
    std::vector<Row> rows = {titles};
    for (const auto& line : lines) {
        rows.push_back(columns(line));
    }
    std::array<std::size_t, 8> widths{};
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::min(std::max(widths[i], row[i].size()), widest);
        }
    }
    out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", name);
    for (const auto& row : rows) {
        for (std::size_t i = 0; i + 1 < row.size(); ++i) {
            out += fmt::format("{:<{}}  ", row[i], widths[i]);
        }
        out += row.back() + "\n";
    }
}

} // namespace

std::string print_prefix(const Prefix& prefix) {
    return prefix.base.is_v4() ? prefix.text()
           : prefix.is_host()  ? fmt::format("[{}]", prefix.base.text())
                               : fmt::format("[{}]/{}", prefix.base.text(), prefix.length);
}

std::string print_type(const std::optional<int>& type) {
    if (!type) {
        return "*";
    }
    return *type == SOCK_STREAM  ? "stream"
           : *type == SOCK_DGRAM ? "dgram"
                                 : fmt::format("{}", *type);
}

std::string print_protocol(const Protocol& protocol) {
    if (!protocol.number) {
        return "*";
    }
    const std::string_view family = protocol.family == AF_INET6  ? "6"
                                    : protocol.family == AF_INET ? "4"
                                                                 : "";
    return *protocol.number == IPPROTO_TCP   ? fmt::format("tcp{}", family)
           : *protocol.number == IPPROTO_UDP ? fmt::format("udp{}", family)
                                             : fmt::format("{}", *protocol.number);
}

std::string print(const Rule& rule) {
    return fmt::format("{}", fmt::join(columns(rule), " "));
}

std::string print(const EgressRule& rule) {
    return fmt::format("{}", fmt::join(egress_columns(rule), " "));
}

std::string print(const Policy& policy) {
    const Row rule_titles = {"# location", "type",  "proto",   "owner",
                             "name",       "nfail", "disable", "options"};
    std::string out;
    if (policy.settings.rows) {
        out += fmt::format("[settings]\nrows  {}\n", *policy.settings.rows);
    }
    print_section(out, "local", rule_titles, policy.local);
    print_section(out, "remote", rule_titles, policy.remote);
    print_section(out, "trusted", {"# location", "type", "proto", "owner", "options"},
                  policy.trusted);
    if (const auto dns = print_dns(policy.dns); !dns.empty()) {
        out += (out.empty() ? "" : "\n") + dns;
    }
    print_section(out, "egress",
                  {"# destination", "type", "proto", "owner", "program", "action", "options"},
                  policy.egress);
    return out;
}

} // namespace egress::policy
