#include "daemon/policy/egress/options.h"

#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>

#include "daemon/policy/egress/columns.h"
#include "daemon/policy/egress/time.h"
#include "daemon/policy/text/columns.h"
#include "daemon/policy/text/number.h"
#include "daemon/policy/text/option.h"

namespace egress::policy {

namespace {

constexpr std::size_t max_cgroup = 1023; // bytes of a cgroup's path
constexpr std::size_t max_windows = 64;  // as written; see max_spans
constexpr std::size_t max_unit = 255;    // systemd's UNIT_NAME_MAX - 1
constexpr auto most_token = std::numeric_limits<std::uint64_t>::max();
constexpr std::array<std::string_view, 18> known = {
    "token", "parent", "under", "cgroup", "unit", "container", "host",  "when",    "until",
    "audit", "log",    "quiet", "alarm",  "trap", "kill",      "nfail", "disable", "level"};
// Kinds of units that have processes.
constexpr std::array<std::string_view, 6> unit_kinds = {".service", ".scope", ".slice",
                                                        ".socket",  ".mount", ".swap"};
constexpr std::array<std::string_view, 5> other_kinds = {".target", ".timer", ".path", ".device",
                                                         ".automount"};

/// "6", "5-6", ">=5".
bool set_token(const Option& option, const Context& context, EgressOptions& out) {
    if (!needs_value(option, context, "token=6")) {
        return false;
    }
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

bool set_path(const Option& option, const Context& context, std::string& out) {
    const bool cgroup = option.key.text == "cgroup";
    if (!needs_value(option, context, cgroup ? "cgroup=/guests.slice" : "under=/usr/sbin/sshd") ||
        !check_path(option.value, context, option.key.text,
                    cgroup ? max_cgroup : max_program_path)) {
        return false;
    }
    out = option.value.text;
    return true;
}

bool is_unit_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ':' ||
           c == '-' || c == '_' || c == '.' || c == '@';
}

/// "nginx.service"; "nginx" is short for it, as with systemctl.
bool set_unit(const Option& option, const Context& context, EgressOptions& out) {
    if (!needs_value(option, context, "unit=nginx.service")) {
        return false;
    }
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

bool set_place(const Option& option, const Context& context, EgressOptions& out) {
    if (out.container) {
        context.error(option.whole, "container and host exclude each other", "one may stand, once");
        return false;
    }
    out.container = option.key.text == "container";
    return true;
}

bool set_nfail(const Option& option, const Context& context, EgressOptions& out) {
    if (!needs_value(option, context, "nfail=3")) {
        return false;
    }
    if (const auto number = parse_number(option.value, context, "nfail", 1, 2147483647)) {
        out.nfail = static_cast<std::uint32_t>(*number);
    }
    return out.nfail.has_value();
}

bool set_disable(const Option& option, const Context& context, EgressOptions& out) {
    using Kind = Setting<Seconds>::Kind;
    if (!needs_value(option, context, "disable=10m")) {
        return false;
    }
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

bool set_level(const Option& option, const Context& context, EgressOptions& out) {
    constexpr std::array<std::string_view, 3> words = {"internet", "network", "all"};
    if (!needs_value(option, context, "level=internet")) {
        return false;
    }
    const auto at = std::ranges::find(words, option.value.text);
    if (at == words.end()) {
        context.error(option.value, fmt::format("unknown level {}", quote(option.value.text)),
                      suggestion(option.value.text, words, "write internet, network or all"));
        return false;
    }
    out.level = static_cast<EgressOptions::Level>(at - words.begin());
    return true;
}

/// May stand several times: each is one more window.
bool set_when(const Option& option, const Context& context, EgressOptions& out) {
    if (!needs_value(option, context, "when=Mon-Fri/08:00-18:00")) {
        return false;
    }
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

bool set_until(const Option& option, const Context& context, EgressOptions& out) {
    if (!needs_value(option, context, "until=2026-12-01T08:00:00Z")) {
        return false;
    }
    out.until = parse_instant(option.value, context);
    return out.until.has_value();
}

/// A flag's place in the options; null: the option is no flag.
bool* flag_of(std::string_view key, EgressOptions& out) {
    return key == "audit"   ? &out.audit
           : key == "log"   ? &out.log
           : key == "quiet" ? &out.quiet
           : key == "alarm" ? &out.alarm
           : key == "trap"  ? &out.trap
           : key == "kill"  ? &out.kill
                            : nullptr;
}

/// Whether an option that may stand once stands there already.
bool given_before(std::string_view key, const EgressOptions& out) {
    return (key == "token" && out.token) || (key == "parent" && !out.parent.empty()) ||
           (key == "under" && !out.under.empty()) || (key == "cgroup" && !out.cgroup.empty()) ||
           (key == "unit" && !out.unit.empty()) || (key == "until" && out.until) ||
           (key == "nfail" && out.nfail) || (key == "disable" && out.disable) ||
           (key == "level" && out.level);
}

bool set_flag(const Option& option, const Context& context, bool& flag) {
    if (flag) {
        return twice(option, context);
    }
    flag = true;
    return true;
}

bool set_valued(const Option& option, const Context& context, EgressOptions& out) {
    using Set = bool (*)(const Option&, const Context&, EgressOptions&);
    struct Entry {
        std::string_view key;
        Set set;
    };
    static constexpr std::array<Entry, 7> setters = {{{"token", set_token},
                                                      {"unit", set_unit},
                                                      {"when", set_when},
                                                      {"until", set_until},
                                                      {"nfail", set_nfail},
                                                      {"disable", set_disable},
                                                      {"level", set_level}}};
    const auto key = option.key.text;
    if (given_before(key, out)) {
        return twice(option, context);
    }
    if (key == "parent" || key == "under" || key == "cgroup") {
        return set_path(option, context,
                        key == "parent"  ? out.parent
                        : key == "under" ? out.under
                                         : out.cgroup);
    }
    return std::ranges::find(setters, key, &Entry::key)->set(option, context, out);
}

bool set_option(const Option& option, const Context& context, EgressOptions& out) {
    const auto key = option.key.text;
    if (std::ranges::find(known, key) == known.end()) {
        context.error(option.whole, fmt::format("unknown option {}", quote(key)),
                      suggestion(key, known, fmt::format("known are {}", fmt::join(known, ", "))));
        return false;
    }
    bool* const flag = flag_of(key, out);
    const bool place = key == "container" || key == "host";
    if (flag == nullptr && !place) {
        return set_valued(option, context, out);
    }
    if (option.given) {
        context.error(option.whole, fmt::format("option {} takes no value", key));
        return false;
    }
    return place ? set_place(option, context, out) : set_flag(option, context, *flag);
}

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
                     "quiet is for what nobody wants to hear of");
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

std::optional<EgressOptions> parse_egress_options(const Cell& cell, const Context& context) {
    EgressOptions out;
    const auto set = [&](const Option& option) { return set_option(option, context, out); };
    return each_option(cell, context, set) && agree(cell, context, out) ? std::optional(out)
                                                                        : std::nullopt;
}

} // namespace egress::policy
