#include "daemon/policy/text/number.h"

#include <charconv>

#include <fmt/format.h>

namespace egress::policy {

namespace {

struct Digits {
    std::string_view text;
    int base = 10;
};

Digits digits_of(std::string_view text) {
    if (text.starts_with("0x") || text.starts_with("0X")) {
        return {text.substr(2), 16};
    }
    return {text, text.size() > 1 && text[0] == '0' ? 8 : 10};
}

} // namespace

std::optional<std::uint64_t> parse_number(const Cell& cell, const Context& context,
                                          std::string_view what, std::uint64_t least,
                                          std::uint64_t most) {
    const auto [digits, base] = digits_of(cell.text);
    std::uint64_t value = 0;
    const auto [end, ec] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (ec == std::errc::invalid_argument || end != digits.data() + digits.size()) {
        return context.error(cell, fmt::format("{} {} is not a number", what, quote(cell.text)),
                             base == 8 ? "a number that begins with 0 is octal" : "");
    }
    if (ec == std::errc::result_out_of_range || value < least || value > most) {
        return context.error(cell, fmt::format("{} {} is out of range", what, quote(cell.text)),
                             fmt::format("{} to {} are possible", least, most));
    }
    if (base == 8) {
        context.out.warn(
            cell.place(),
            fmt::format("{} {} is octal, {} in decimal", what, quote(cell.text), value),
            "leave out the leading 0 if that is not meant");
    }
    return value;
}

std::optional<Seconds> parse_duration(const Cell& cell, const Context& context) {
    constexpr std::string_view units = "write numbers with s, m, h, d or w, as in 1h30m";
    if (digits_of(cell.text).base == 16) { // no units: 'd' is a digit here
        const auto number = parse_number(cell, context, "time", 0, max_duration);
        return number ? std::optional(static_cast<Seconds>(*number)) : std::nullopt;
    }
    Seconds total = 0;
    for (std::size_t at = 0; at < cell.text.size() || at == 0;) {
        const auto stop = std::min(cell.text.find_first_not_of("0123456789", at), cell.text.size());
        if (stop == at) {
            return context.error(cell.part(at), fmt::format("bad time {}", quote(cell.text)),
                                 std::string(units));
        }
        const auto number =
            parse_number(cell.part(at, stop - at), context, "time", 0, max_duration);
        if (!number) {
            return std::nullopt;
        }
        const Seconds unit = stop == cell.text.size() ? 1 : unit_seconds(cell.text[stop]);
        if (unit == 0) {
            return context.error(
                cell.part(stop),
                fmt::format("unknown unit of time {}", quote(cell.text.substr(stop, 1))),
                std::string(units));
        }
        total += static_cast<Seconds>(*number) * unit; // no overflow: 2^31 times 604800
        if (total > max_duration) {
            return context.error(
                cell, fmt::format("time {} is too long", quote(cell.text)),
                fmt::format("{} seconds are the most; '*' is for ever", max_duration));
        }
        at = stop + 1;
    }
    return total;
}

std::string print_duration(Seconds seconds) {
    if (seconds == forever) {
        return "*";
    }
    struct Unit {
        Seconds length;
        char letter;
    };
    constexpr std::array<Unit, 4> units = {{{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}}};
    std::string out;
    for (const auto& unit : units) {
        if (const Seconds count = seconds / unit.length; count > 0) {
            out += fmt::format("{}{}", count, unit.letter);
        }
        seconds %= unit.length;
    }
    return out.empty() ? "0s" : out;
}

} // namespace egress::policy
