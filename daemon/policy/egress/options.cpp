#include "daemon/policy/egress/options.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>

#include <fmt/format.h>

#include "daemon/policy/egress/columns.h"
#include "daemon/policy/egress/time.h"
#include "daemon/policy/text/columns.h"
#include "daemon/policy/text/number.h"
#include "daemon/policy/text/option.h"
#include "daemon/policy/text/path.h"

namespace egress::policy {

namespace {

constexpr std::size_t max_cgroup = 1023; // bytes of a cgroup's path
constexpr std::size_t max_windows = 64;  // as written; see max_spans
constexpr std::size_t max_unit = 255;    // systemd's UNIT_NAME_MAX - 1
constexpr auto most_token = std::numeric_limits<std::uint64_t>::max();
// Kinds of units that have processes.
constexpr std::array<std::string_view, 6> unit_kinds = {".service", ".scope", ".slice",
                                                        ".socket",  ".mount", ".swap"};
constexpr std::array<std::string_view, 5> other_kinds = {".target", ".timer", ".path", ".device",
                                                         ".automount"};
constexpr std::array<std::string_view, 3> levels = {"internet", "network", "all"};

/// "6", "5-6", ">=5".
bool set_token(const Option& option, const Context& context, EgressOptions& out) {
    std::optional<std::uint64_t> least;
    std::optional<std::uint64_t> most = most_token;
    const Cell& value = option.value;
    const auto number = [&](const Cell& cell) {
        return parse_number(cell, context, "token", 0, most_token);
    };
    if (value.text.starts_with(">=")) {
        least = number(value.part(2));
    } else {
        const Cell first = value.before('-');
        least = number(first);
        most = first.text.size() < value.text.size() ? number(value.part(first.text.size() + 1))
                                                     : least;
    }
    if (!least || !most) {
        return false;
    }
    if (*most < *least) {
        context.error(value, fmt::format("{} ends before it begins", quote(value.text)),
                      fmt::format("did you mean {}-{}?", *most, *least));
        return false;
    }
    out.token = TokenRange{*least, *most};
    return true;
}

std::string print_token(const TokenRange& token) {
    return token.least == token.most  ? fmt::format("{}", token.least)
           : token.most == most_token ? fmt::format(">={}", token.least)
                                      : fmt::format("{}-{}", token.least, token.most);
}

bool covers_token(const EgressOptions& a, const EgressOptions& b) {
    return !a.token ||
           (b.token && a.token->least <= b.token->least && b.token->most <= a.token->most);
}

template <std::string EgressOptions::*path, std::size_t most>
bool set_path(const Option& option, const Context& context, EgressOptions& out) {
    if (!check_path(option.value, context, option.key.text, most)) {
        return false;
    }
    out.*path = option.value.text;
    return true;
}

bool covers_cgroup(const EgressOptions& a, const EgressOptions& b) {
    return a.cgroup.empty() || (!b.cgroup.empty() && same_or_below(b.cgroup, a.cgroup));
}

bool is_unit_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ':' ||
           c == '-' || c == '_' || c == '.' || c == '@';
}

/// "nginx.service"; "nginx" is short for it, as with systemctl.
bool set_unit(const Option& option, const Context& context, EgressOptions& out) {
    const auto text = option.value.text;
    const auto ends = [text](std::string_view kind) {
        return text.ends_with(kind) && text.size() > kind.size();
    };
    if (!std::ranges::all_of(text, is_unit_character) || text.size() > max_unit) {
        context.error(option.value, fmt::format("{} is no name of a unit", quote(text)));
        return false;
    }
    if (std::ranges::any_of(other_kinds, ends)) {
        context.error(option.value, fmt::format("unit {} has no processes", quote(text)),
                      "name a service, scope, slice, socket, mount or swap unit");
        return false;
    }
    out.unit = text;
    if (std::ranges::none_of(unit_kinds, ends)) {
        out.unit += ".service";
    }
    return true;
}

template <bool container>
bool set_place(const Option& option, const Context& context, EgressOptions& out) {
    if (out.container) {
        context.error(option.whole, "container and host exclude each other", "one may stand, once");
        return false;
    }
    out.container = container;
    return true;
}

template <bool container>
OptionValues place_values(const EgressOptions& from) {
    return OptionValues(from.container == container ? 1 : 0);
}

bool covers_place(const EgressOptions& a, const EgressOptions& b) {
    return !a.container || a.container == b.container;
}

bool set_rebind(const Option& option, const Context& context, EgressOptions& out) {
    if (option.value.text != "allow") {
        context.error(option.value, fmt::format("rebind={}", quote(option.value.text)),
                      "write rebind=allow");
        return false;
    }
    return out.rebind = true;
}

OptionValues rebind_values(const EgressOptions& from) {
    return from.rebind ? OptionValues{"allow"} : OptionValues{};
}

bool set_nfail(const Option& option, const Context& context, EgressOptions& out) {
    if (const auto number = parse_number(option.value, context, "nfail", 1, 2147483647)) {
        out.nfail = static_cast<std::uint32_t>(*number);
    }
    return out.nfail.has_value();
}

bool set_disable(const Option& option, const Context& context, EgressOptions& out) {
    using Kind = Setting<Seconds>::Kind;
    if (option.value.text == "*") {
        out.disable = Setting<Seconds>{Kind::unlimited, 0};
        return true;
    }
    const auto seconds = parse_duration(option.value, context);
    if (seconds && *seconds == 0) {
        context.error(option.value, "'disable' of 0", "write a longer time, or '*' for ever");
        return false;
    }
    if (seconds) {
        out.disable = Setting<Seconds>{Kind::value, *seconds};
    }
    return seconds.has_value();
}

std::string print_disable(const Setting<Seconds>& disable) {
    return disable.kind == Setting<Seconds>::Kind::unlimited ? "*" : print_duration(disable.value);
}

bool set_level(const Option& option, const Context& context, EgressOptions& out) {
    const auto at = std::ranges::find(levels, option.value.text);
    if (at == levels.end()) {
        context.error(option.value, fmt::format("unknown level {}", quote(option.value.text)),
                      suggestion(option.value.text, levels, "write internet, network or all"));
        return false;
    }
    out.level = static_cast<EgressOptions::Level>(at - levels.begin());
    return true;
}

std::string print_level(EgressOptions::Level level) {
    return std::string(levels.at(static_cast<std::size_t>(level)));
}

/// May stand several times: each is one more window.
bool set_when(const Option& option, const Context& context, EgressOptions& out) {
    if (out.when.size() == max_windows) {
        context.error(
            option.whole, "too many windows",
            fmt::format("{} are the most; give the others a line of their own", max_windows));
        return false;
    }
    const auto window = parse_window(option.value, context);
    if (window) {
        out.when.push_back(*window);
    }
    return window.has_value();
}

OptionValues when_values(const EgressOptions& from) {
    OptionValues out;
    std::ranges::transform(from.when, std::back_inserter(out), print_window);
    return out;
}

bool covers_when(const EgressOptions& a, const EgressOptions& b) {
    return a.when.empty() || a.when == b.when;
}

bool set_until(const Option& option, const Context& context, EgressOptions& out) {
    out.until = parse_instant(option.value, context);
    return out.until.has_value();
}

bool covers_until(const EgressOptions& a, const EgressOptions& b) {
    return !a.until || (b.until && *b.until <= *a.until);
}

template <std::string EgressOptions::*text>
OptionValues text_values(const EgressOptions& from) {
    return (from.*text).empty() ? OptionValues{} : OptionValues{from.*text};
}

template <std::string EgressOptions::*text>
bool covers_text(const EgressOptions& a, const EgressOptions& b) {
    return (a.*text).empty() || a.*text == b.*text;
}

using Row = EgressOptionRow;
constexpr auto value = Row::Takes::value;
constexpr auto later = Row::Enforced::later;

template <bool EgressOptions::*member>
constexpr Row flag(std::string_view key, Row::Enforced enforced = Row::Enforced::now) {
    const auto set = [](const Option&, const Context&, EgressOptions& out) {
        return out.*member = true;
    };
    const auto values = [](const EgressOptions& from) {
        return OptionValues(from.*member ? 1 : 0);
    };
    return {{key, Row::Takes::nothing, "", set, values}, nullptr, enforced};
}

template <std::string EgressOptions::*member, std::size_t most>
constexpr Row path(std::string_view key, std::string_view example,
                   decltype(Row::covers) covers = covers_text<member>) {
    return {{key, value, example, set_path<member, most>, text_values<member>}, covers};
}

template <bool container>
constexpr Row place(std::string_view key) {
    return {{key, Row::Takes::nothing, "", set_place<container>, place_values<container>,
             Row::Again::allowed},
            covers_place};
}

using Values = EgressOptions;
/// The order in which options are printed.
constexpr auto table = std::to_array<Row>({
    {{"token", value, "6", set_token, value_of<&Values::token, print_token>}, covers_token, later},
    path<&Values::parent, max_program_path>("parent", "/usr/sbin/sshd"),
    path<&Values::under, max_program_path>("under", "/usr/sbin/sshd"),
    path<&Values::cgroup, max_cgroup>("cgroup", "/guests.slice", covers_cgroup),
    {{"unit", value, "nginx.service", set_unit, text_values<&Values::unit>},
     covers_text<&Values::unit>},
    place<true>("container"),
    place<false>("host"),
    {{"when", value, "Mon-Fri/08:00-18:00", set_when, when_values, Row::Again::allowed},
     covers_when},
    {{"until", value, "2026-12-01T08:00:00Z", set_until, value_of<&Values::until, print_instant>},
     covers_until},
    flag<&Values::resolved>("resolved"), // covers() in check.cpp knows the next two
    {{"rebind", value, "allow", set_rebind, rebind_values}, nullptr},
    flag<&Values::audit>("audit"),
    flag<&Values::log>("log"),
    flag<&Values::quiet>("quiet"),
    flag<&Values::alarm>("alarm"),
    flag<&Values::trap>("trap", later),
    flag<&Values::kill>("kill", later),
    {{"nfail", value, "3", set_nfail,
      value_of<&Values::nfail, [](std::uint32_t number) { return fmt::format("{}", number); }>},
     nullptr,
     later},
    {{"disable", value, "10m", set_disable, value_of<&Values::disable, print_disable>},
     nullptr,
     later},
    {{"level", value, "internet", set_level, value_of<&Values::level, print_level>},
     nullptr,
     later},
});

/// False: reported that options contradict each other, or that one lacks another.
bool agree(const Cell& cell, const Context& context, const EgressOptions& out) {
    const auto wrong = [&](std::string text, std::string hint = {}) {
        context.error(cell, std::move(text), std::move(hint));
        return false;
    };
    if (out.quiet && (out.log || out.alarm || out.audit || out.trap)) {
        return wrong(fmt::format("quiet and {} exclude each other", out.log     ? "log"
                                                                    : out.alarm ? "alarm"
                                                                    : out.audit ? "audit"
                                                                                : "trap"),
                     "quiet is for refusals without a message");
    }
    if (!out.cgroup.empty() && !out.unit.empty()) {
        return wrong("cgroup and unit exclude each other", "a unit is a cgroup");
    }
    if (out.nfail.has_value() != out.disable.has_value()) {
        return wrong(out.nfail ? "nfail without disable" : "disable without nfail",
                     "as in nfail=3,disable=10m");
    }
    if (out.level && !out.nfail) {
        return wrong("level without nfail", "as in nfail=3,disable=10m,level=internet");
    }
    if (out.kill && !out.until && out.when.empty()) {
        return wrong("kill on a line that does not end", "add until= or when=");
    }
    if (const auto spans = count_spans(out.when); spans > max_spans) {
        return wrong(
            fmt::format("the windows of when are {} spans of a week", spans),
            fmt::format("{} are the most; give the others a line of their own", max_spans));
    }
    return true;
}

} // namespace

std::span<const EgressOptionRow> egress_option_table() {
    return table;
}

std::optional<EgressOptions> parse_egress_options(const Cell& cell, const Context& context) {
    EgressOptions out;
    const auto set = [&](const Option& option) {
        return set_option(option, context, egress_option_table(), out);
    };
    return each_option(cell, context, set) && agree(cell, context, out) ? std::optional(out)
                                                                        : std::nullopt;
}

std::string print_options(const EgressOptions& options) {
    return print_options(options, egress_option_table());
}

} // namespace egress::policy
