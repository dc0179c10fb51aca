// [egress]: what this version checks of a line that it does not enforce.
#include "daemon/policy/columns.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace egress::policy {

namespace {

constexpr std::array<std::string_view, 5> actions = {"allow", "deny", "reject", "ask", "redirect"};
constexpr std::size_t action_column = 5;
constexpr std::size_t max_columns_bytes = max_line * 3 / 4; // leaves room for print()'s blanks

/// "addr:port" or "[v6]:port".
bool check_target(const Cell& cell, const Context& context) {
    const auto colon = cell.text.rfind(':');
    if (colon != std::string_view::npos) {
        auto host = cell.text.substr(0, colon);
        const bool bracketed = host.starts_with('[') && host.ends_with(']');
        if (bracketed) {
            host = host.substr(1, host.size() - 2);
        }
        const auto address = Address::parse(host);
        if (address && bracketed == (host.find(':') != std::string_view::npos)) {
            return parse_port(cell.part(colon + 1), context).has_value();
        }
    }
    context.error(cell, fmt::format("bad target {} of redirect", quote(cell.text)),
                  "write redirect=127.0.0.1:3129 or redirect=[::1]:3129");
    return false;
}

} // namespace

bool check_egress(const Line& line, const Context& context) {
    const auto& cells = line.cells();
    if (cells.size() < 6 || cells.size() > 7) {
        context.error(cells[std::min<std::size_t>(cells.size() - 1, 7)],
                      fmt::format("{} columns; a line of [egress] has 6 or 7", cells.size()),
                      "destination type proto owner program action [options]");
        return false;
    }
    std::size_t bytes = 0;
    for (const auto& each : cells) {
        bytes += each.text.size();
    }
    if (bytes > max_columns_bytes) {
        context.error(cells[0], fmt::format("the columns have {} bytes", bytes),
                      fmt::format("{} are the most", max_columns_bytes));
        return false;
    }
    const Cell& cell = cells[action_column];
    const Cell word = cell.before('=');
    if (std::ranges::find(actions, word.text) == actions.end()) {
        context.error(
            cell, fmt::format("unknown action {}", quote(cell.text)),
            suggestion(word.text, actions, "write allow, deny, reject, ask or redirect="));
        return false;
    }
    if (word.text == "redirect") {
        return check_target(cell.part(std::min(word.text.size() + 1, cell.text.size())), context);
    }
    if (word.text.size() < cell.text.size()) {
        context.error(cell, fmt::format("action {} takes no value", quote(word.text)));
        return false;
    }
    return true;
}

} // namespace egress::policy
