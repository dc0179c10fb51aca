#include "daemon/policy/login/options.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

#include "daemon/policy/text/number.h"
#include "daemon/policy/text/option.h"
#include "daemon/policy/text/path.h"

namespace egress::policy {

namespace {

constexpr std::uint32_t most_escalation = 1000;
constexpr std::uint32_t most_grow = 1000000;

/// "2", "1.5", "1.25" -> 200, 150, 125.
bool set_escalate(const Option& option, const Context& context, LoginOptions& out) {
    const auto text = option.value.text;
    const auto point = std::min(text.find('.'), text.size());
    const auto fraction = point == text.size() ? std::string_view{} : text.substr(point + 1);
    const bool digits = std::ranges::all_of(fraction, [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || fraction.size() > 2 || (point < text.size() && fraction.empty())) {
        context.error(option.value, fmt::format("bad factor {}", quote(text)),
                      "write a number with at most two decimals, as in 1.5");
        return false;
    }
    const auto whole =
        parse_number(option.value.part(0, point), context, "factor", 1, most_escalation);
    if (!whole) {
        return false;
    }
    std::uint32_t percent = static_cast<std::uint32_t>(*whole) * 100;
    std::uint32_t weight = 10;
    for (const char c : fraction) {
        percent += static_cast<std::uint32_t>(c - '0') * weight;
        weight /= 10;
    }
    out.escalate_percent = percent;
    return true;
}

std::string print_factor(std::uint32_t percent) {
    const auto rest = percent % 100;
    return rest == 0        ? fmt::format("{}", percent / 100)
           : rest % 10 == 0 ? fmt::format("{}.{}", percent / 100, rest / 10)
                            : fmt::format("{}.{:02}", percent / 100, rest);
}

template <std::optional<Seconds> LoginOptions::*time>
bool set_time(const Option& option, const Context& context, LoginOptions& out) {
    if (option.value.text == "*") {
        out.*time = forever;
        return true;
    }
    const auto seconds = parse_duration(option.value, context);
    if (seconds && *seconds == 0) {
        context.error(option.value, fmt::format("{} of 0", quote(option.key.text)),
                      "write a longer time, or '*' for no bound");
        return false;
    }
    out.*time = seconds;
    return seconds.has_value();
}

/// "LEN:N".
bool set_grow(const Option& option, const Context& context, LoginOptions& out) {
    const Cell length = option.value.before(':');
    if (length.text.size() == option.value.text.size()) {
        context.error(option.value, fmt::format("bad value {} of grow", quote(length.text)),
                      "write LENGTH:NUMBER, as in grow=24:5");
        return false;
    }
    const auto bits = parse_number(length, context, "prefix length", 1, 128);
    const auto count = parse_number(option.value.part(length.text.size() + 1), context,
                                    "number of addresses", 2, most_grow);
    if (!bits || !count) {
        return false;
    }
    const auto same_family = [&](const LoginOptions::Grow& grow) {
        return (grow.length > 32) == (*bits > 32);
    };
    if (std::ranges::any_of(out.grow, same_family)) {
        context.error(option.whole, "grow is given twice for one family",
                      "lengths up to 32 are for IPv4, longer ones for IPv6");
        return false;
    }
    out.grow.push_back({static_cast<std::uint8_t>(*bits), static_cast<std::uint32_t>(*count)});
    std::ranges::sort(out.grow, {}, &LoginOptions::Grow::length);
    return true;
}

OptionValues grow_values(const LoginOptions& from) {
    OptionValues out;
    for (const auto& grow : from.grow) {
        out.push_back(fmt::format("{}:{}", grow.length, grow.count));
    }
    return out;
}

/// A flag that is on where it stands alone or with the value `on`, off with the value `off`.
bool set_flag(const Option& option, const Context& context, std::string_view on,
              std::string_view off, std::optional<bool>& out) {
    if (option.given && option.value.text != on && option.value.text != off) {
        context.error(
            option.value,
            fmt::format("bad value {} of {}", quote(option.value.text), option.key.text),
            fmt::format("write {}={} or {}={}", option.key.text, on, option.key.text, off));
        return false;
    }
    out = !option.given || option.value.text == on;
    return true;
}

bool set_kill(const Option& option, const Context& context, LoginOptions& out) {
    return set_flag(option, context, "yes", "no", out.kill);
}

bool set_spoofable(const Option& option, const Context& context, LoginOptions& out) {
    return set_flag(option, context, "count", "ignore", out.spoofable);
}

bool set_count(const Option& option, const Context& context, LoginOptions& out) {
    return set_flag(option, context, "name", "port", out.by_name);
}

bool set_ports(const Option& option, const Context& context, LoginOptions& out) {
    return set_flag(option, context, "all", "one", out.all_ports);
}

bool set_success(const Option& option, const Context& context, LoginOptions& out) {
    return set_flag(option, context, "keep", "clear", out.keep);
}

template <bool reject>
bool set_verdict(const Option& option, const Context& context, LoginOptions& out) {
    if (out.reject) {
        context.error(option.whole, "drop and reject exclude each other", "each may stand once");
        return false;
    }
    out.reject = reject;
    return true;
}

using Row = OptionRow<LoginOptions>;

/// The order in which options are printed.
constexpr auto table = std::to_array<Row>({
    {"escalate", Row::Takes::value, "2", set_escalate,
     value_of<&LoginOptions::escalate_percent, print_factor>},
    {"max", Row::Takes::value, "7d", set_time<&LoginOptions::max>,
     value_of<&LoginOptions::max, print_duration>},
    {"window", Row::Takes::value, "7d", set_time<&LoginOptions::window>,
     value_of<&LoginOptions::window, print_duration>},
    {"grow", Row::Takes::value, "24:5", set_grow, grow_values, Row::Again::allowed},
    {"kill", Row::Takes::either, "no", set_kill,
     value_of<&LoginOptions::kill, [](bool kill) { return kill ? "" : "no"; }>},
    {"reject", Row::Takes::nothing, "", set_verdict<true>,
     [](const LoginOptions& from) { return OptionValues(from.reject == true ? 1 : 0); },
     Row::Again::allowed},
    {"drop", Row::Takes::nothing, "", set_verdict<false>,
     [](const LoginOptions& from) { return OptionValues(from.reject == false ? 1 : 0); },
     Row::Again::allowed},
    {"spoofable", Row::Takes::value, "count", set_spoofable,
     value_of<&LoginOptions::spoofable, [](bool count) { return count ? "count" : "ignore"; }>},
    {"count", Row::Takes::value, "name", set_count,
     value_of<&LoginOptions::by_name, [](bool name) { return name ? "name" : "port"; }>},
    {"ports", Row::Takes::value, "all", set_ports,
     value_of<&LoginOptions::all_ports, [](bool all) { return all ? "all" : "one"; }>},
    {"success", Row::Takes::value, "keep", set_success,
     value_of<&LoginOptions::keep, [](bool keep) { return keep ? "keep" : "clear"; }>},
});

bool set_trusted_cgroup(const Option& option, const Context& context, Trusted& out) {
    constexpr std::size_t most = 1023; // bytes, as in [egress]
    if (!check_path(option.value, context, option.key.text, most)) {
        return false;
    }
    out.cgroup = option.value.text;
    return true;
}

constexpr auto trusted_table = std::to_array<OptionRow<Trusted>>({
    {"cgroup", OptionRow<Trusted>::Takes::value, "/mail.slice", set_trusted_cgroup,
     [](const Trusted& from) {
         return from.cgroup.empty() ? OptionValues() : OptionValues{from.cgroup};
     }},
});

} // namespace

std::span<const OptionRow<Trusted>> trusted_option_table() {
    return trusted_table;
}

bool parse_trusted_options(const Cell& cell, const Context& context, Trusted& out) {
    return each_option(cell, context, [&](const Option& option) {
        return set_option(option, context, trusted_option_table(), out);
    });
}

std::string print_trusted_options(const Trusted& line) {
    return print_options(line, trusted_option_table());
}

std::span<const OptionRow<LoginOptions>> option_table() {
    return table;
}

std::optional<LoginOptions> parse_options(const Cell& cell, const Context& context) {
    LoginOptions out;
    const auto set = [&](const Option& option) {
        return set_option(option, context, option_table(), out);
    };
    return each_option(cell, context, set) ? std::optional(out) : std::nullopt;
}

std::string print_options(const LoginOptions& options) {
    return print_options(options, option_table());
}

} // namespace egress::policy
