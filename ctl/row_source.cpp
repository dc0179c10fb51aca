#include "ctl/row_source.h"

#include <ctime>

#include "ctl/http.h"
#include "ctl/out.h"
#include "daemon/base/protocol.h"

namespace egress::ctl {

namespace {

constexpr std::size_t longest_row = 64 << 10;

/// "2026-11-22T12:00:00Z" as wall-clock seconds; 0: absent, or not in this form.
std::uint32_t seconds_of(const Json& row, const char* key) {
    std::tm parts{};
    const auto text = text_at(row, key);
    const char* const end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return end == nullptr || *end != '\0' ? 0 : static_cast<std::uint32_t>(timegm(&parts));
}

std::string raw_text(const Json& row, const char* key) {
    const auto found = row.find(key);
    return found != row.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::optional<store::Row> row_of(const Json& json) {
    const auto address = Address::parse(raw_text(json, "addr"));
    const auto length = number_at(json, "prefixlen");
    if (!json.is_object() || !address || !length || *length < 0 || *length > address->width()) {
        return std::nullopt;
    }
    store::Row row;
    row.name = raw_text(json, "name");
    row.address = Prefix::around(*address, static_cast<int>(*length));
    row.port = static_cast<std::uint16_t>(number_at(json, "port").value_or(0));
    row.protocol = protocol_of(raw_text(json, "protocol")).value_or(0);
    row.count = static_cast<std::uint32_t>(number_at(json, "count").value_or(0));
    row.nfail = static_cast<std::uint32_t>(number_at(json, "nfail").value_or(0));
    row.id = raw_text(json, "id");
    row.reason = raw_text(json, "reason");
    row.since = seconds_of(json, "since");
    row.until = seconds_of(json, "until");
    const auto state = text_at(json, "state");
    row.state = state == "counting"    ? store::State::counting
                : state == "releasing" ? store::State::releasing
                                       : store::State::blocked;
    row.flags = static_cast<std::uint8_t>(state == "blocked"     ? store::in_force
                                          : state == "monitored" ? store::monitor
                                                                 : 0);
    if (row.state == store::State::blocked && row.until == 0) {
        row.until = store::until_forever;
    }
    return row;
}

/// A line of the answer without the array's brackets and commas.
std::string_view object_in(std::string_view line) {
    const auto first = line.find('{');
    const auto last = line.rfind('}');
    return first == std::string_view::npos || last == std::string_view::npos || last < first
               ? std::string_view()
               : line.substr(first, last - first + 1);
}

} // namespace

Outcome<void> rows_of_daemon(const Context& context,
                             const std::function<void(store::Row&&)>& visit) {
    bool understood = true;
    bool ended = false;
    const auto on_line = [&](std::string_view line) {
        const auto object = object_in(line);
        ended = ended || (object.empty() && line.find(']') != std::string_view::npos);
        if (object.empty()) {
            return true;
        }
        const auto json = parse_json(object);
        auto row = json ? row_of(*json) : std::nullopt;
        understood = row.has_value();
        if (row) {
            visit(std::move(*row));
        }
        return understood;
    };
    const auto followed = follow(context, {"GET", "/v1/blocks", {}, longest_row}, on_line);
    if (!followed) {
        return followed;
    }
    if (!understood || !ended) {
        return fail(Exit::unreachable, "egressd's answer is not understood, or incomplete");
    }
    return {};
}

} // namespace egress::ctl
