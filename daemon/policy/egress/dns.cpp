#include "daemon/policy/egress/dns.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "daemon/policy/text/host.h"
#include "daemon/policy/text/number.h"

namespace egress::policy {

namespace {

constexpr std::uint16_t standard_port = 53;
constexpr const char* example = "write resolver 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353";

/// "addr", "addr:port", "[v6]", "[v6]:port"; a bare IPv6 address, too.
std::optional<Endpoint> parse_resolver(const Cell& cell, const Context& context) {
    if (const auto bare = Address::parse(cell.text)) {
        return Endpoint{*bare, standard_port};
    }
    const bool bracketed = cell.text.starts_with('[');
    const Cell host = bracketed ? cell.part(1).before(']') : cell.before(':');
    const Cell rest = cell.part(std::min(host.text.size() + (bracketed ? 2 : 0), cell.text.size()));
    if (host.text.find('%') != std::string_view::npos) {
        return context.error(cell, fmt::format("{} has a scope", quote(cell.text)),
                             "write the address without it; it holds on every link");
    }
    const auto address = Address::parse(host.text);
    const bool closed = !bracketed || cell.text.find(']') != std::string_view::npos;
    if (!address || !closed || (!rest.text.empty() && !rest.text.starts_with(':'))) {
        return context.error(cell, fmt::format("{} is not a resolver", quote(cell.text)), example);
    }
    if (rest.text.empty()) {
        return Endpoint{*address, standard_port};
    }
    const auto port = parse_port(rest.part(1), context);
    return port ? std::optional(Endpoint{*address, *port}) : std::nullopt;
}

void set_resolver(const Cell& cell, const Context& context, Dns& out) {
    const auto resolver = parse_resolver(cell, context);
    if (!resolver) {
        return;
    }
    if (resolver->address.is_unspecified()) {
        context.error(cell, fmt::format("{} is no address of a resolver", quote(cell.text)),
                      "one on this host is at 127.0.0.1 or [::1]");
    } else if (std::ranges::find(out.resolvers, *resolver) != out.resolvers.end()) {
        context.error(cell, fmt::format("resolver {} is given twice", quote(cell.text)),
                      "one of the two must go");
    } else if (out.resolvers.size() == max_resolvers) {
        context.error(cell, "too many resolvers", fmt::format("{} are the most", max_resolvers));
    } else {
        out.resolvers.push_back(*resolver);
    }
}

void set_grace(const Cell& cell, const Context& context, Dns& out) {
    if (out.grace) {
        context.error(cell, "grace is set twice", "one of the two must go");
        return;
    }
    const auto grace = parse_duration(cell, context);
    if (grace && *grace > max_grace) {
        context.error(cell, fmt::format("a grace of {}", print_duration(*grace)),
                      fmt::format("{} is the most", print_duration(max_grace)));
        return;
    }
    if (grace && *grace == 0) {
        context.error(cell, "a grace of 0s",
                      "1s is the least: an answer with a TTL of 0 would grant nothing");
        return;
    }
    out.grace = grace;
}

void set_refresh(const Cell& cell, const Context& context, Dns& out) {
    if (out.refresh) {
        context.error(cell, "refresh is set twice", "one of the two must go");
    } else if (cell.text != "yes" && cell.text != "no") {
        context.error(cell, fmt::format("refresh is yes or no, not {}", quote(cell.text)),
                      "yes looks the names of lines up again before their grants end");
    } else {
        out.refresh = cell.text == "yes";
    }
}

void set_queries(const Cell& cell, const Context& context, Dns& out) {
    if (out.queries_listed) {
        context.error(cell, "queries is set twice", "one of the two must go");
    } else if (cell.text != "listed" && cell.text != "any") {
        context.error(cell, fmt::format("queries is listed or any, not {}", quote(cell.text)),
                      "listed lets programs ask only for names that their lines name");
    } else {
        out.queries_listed = cell.text == "listed";
    }
}

constexpr std::array<std::string_view, 3> others_words = {"allow", "alarm", "refuse"};

void set_others(const Cell& cell, const Context& context, Dns& out) {
    const auto* const word = std::ranges::find(others_words, cell.text);
    if (out.others) {
        context.error(cell, "others is set twice", "one of the two must go");
    } else if (word == others_words.end()) {
        context.error(cell,
                      fmt::format("others is refuse, alarm or allow, not {}", quote(cell.text)),
                      "refuse keeps programs from resolvers that are not approved");
    } else {
        out.others = static_cast<Dns::Others>(word - others_words.begin());
    }
}

struct Key {
    std::string_view name;
    std::string_view line; ///< as a hint
    void (*set)(const Cell& value, const Context& context, Dns& out);
};
constexpr auto keys = std::to_array<Key>({
    {"resolver", "resolver ADDRESS[:PORT]", set_resolver},
    {"grace", "grace TIME", set_grace},
    {"refresh", "refresh yes|no", set_refresh},
    {"queries", "queries listed|any", set_queries},
    {"others", "others refuse|alarm|allow", set_others},
});

} // namespace

void parse_dns(const Line& line, const Context& context, Dns& out) {
    const auto& cells = line.cells();
    const auto* const key = std::ranges::find(keys, cells[0].text, &Key::name);
    if (key == keys.end()) {
        std::array<std::string_view, keys.size()> names;
        std::array<std::string_view, keys.size()> lines;
        std::ranges::transform(keys, names.begin(), &Key::name);
        std::ranges::transform(keys, lines.begin(), &Key::line);
        context.error(
            cells[0], fmt::format("unknown key {} in [dns]", quote(cells[0].text)),
            suggestion(cells[0].text, names, fmt::format("known are: {}", fmt::join(lines, ", "))));
        return;
    }
    if (cells.size() != 2) {
        const bool few = cells.size() < 2;
        context.error(few ? cells.back() : cells[2],
                      fmt::format("too {} columns: {}", few ? "few" : "many", cells.size()),
                      fmt::format("a line here is: {}", key->line));
        return;
    }
    if (!out.place) {
        out.place = cells[0].place();
    }
    key->set(cells[1], context, out);
}

std::string print_dns(const Dns& dns) {
    std::string out;
    for (const auto& [address, port] : dns.resolvers) {
        const auto host = address.is_v4() ? address.text() : fmt::format("[{}]", address.text());
        out += port == standard_port ? fmt::format("resolver  {}\n", host)
                                     : fmt::format("resolver  {}:{}\n", host, port);
    }
    if (dns.grace) {
        out += fmt::format("grace     {}\n", print_duration(*dns.grace));
    }
    if (dns.refresh) {
        out += fmt::format("refresh   {}\n", *dns.refresh ? "yes" : "no");
    }
    if (dns.queries_listed) {
        out += fmt::format("queries   {}\n", *dns.queries_listed ? "listed" : "any");
    }
    if (dns.others) {
        out +=
            fmt::format("others    {}\n", others_words.at(static_cast<std::size_t>(*dns.others)));
    }
    return out.empty() ? out : "[dns]\n" + out;
}

} // namespace egress::policy
