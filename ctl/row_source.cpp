#include "ctl/row_source.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>

#include "ctl/http.h"
#include "ctl/out.h"
#include "daemon/base/protocol.h"
#include "daemon/store/json.h"

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

/// The bytes that "exe_hex" writes; nullopt: it is not in this form.
std::optional<std::string> bytes_of(std::string_view hex) {
    std::string out;
    for (; hex.size() >= 2; hex.remove_prefix(2)) {
        unsigned byte = 0;
        const auto [end, error] = std::from_chars(hex.data(), hex.data() + 2, byte, 16);
        if (error != std::errc() || end != hex.data() + 2) {
            return std::nullopt;
        }
        out.push_back(static_cast<char>(byte));
    }
    return hex.empty() ? std::optional(std::move(out)) : std::nullopt;
}

std::optional<store::EventRow> event_of(const Json& json) {
    using store::EventRow;
    constexpr std::array all = {EventRow::Action::allowed, EventRow::Action::blocked,
                                EventRow::Action::monitored};
    const auto action = std::ranges::find(all, text_at(json, "action"),
                                          [](auto one) { return std::string(name_of(one)); });
    const auto hex = bytes_of(raw_text(json, "exe_hex"));
    const auto address = raw_text(json, "addr");
    EventRow row;
    row.address = Address::parse(address);
    if (action == all.end() || !hex || (!row.address && !address.empty())) {
        return std::nullopt;
    }
    row.action = *action;
    row.rule = raw_text(json, "rule");
    row.program = hex->empty() ? raw_text(json, "exe") : *hex;
    for (const auto& [name, flag] : store::event_flags) {
        const auto found = json.find(std::string(name));
        if (found != json.end() && found->is_boolean() && found->get<bool>()) {
            row.flags = static_cast<std::uint8_t>(row.flags | flag);
        }
    }
    row.uid = static_cast<std::uint32_t>(number_at(json, "uid").value_or(0));
    row.gid = static_cast<std::uint32_t>(number_at(json, "gid").value_or(0));
    row.type = static_cast<std::uint8_t>(number_at(json, "type").value_or(0));
    row.protocol = protocol_of(raw_text(json, "protocol")).value_or(0);
    row.port = static_cast<std::uint16_t>(number_at(json, "port").value_or(0));
    row.count = static_cast<std::uint64_t>(number_at(json, "count").value_or(0));
    row.first = seconds_of(json, "first");
    row.last = seconds_of(json, "last");
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

/// Calls `visit` for each object in the array of an answer that has one on each line.
Outcome<void> each_object(const Context& context, const char* path,
                          const std::function<bool(const Json&)>& visit,
                          const std::function<void(std::string_view)>& on_head = {}) {
    bool understood = true;
    bool ended = false;
    const auto on_line = [&](std::string_view line) {
        const auto object = object_in(line);
        ended = ended || (object.empty() && line.find(']') != std::string_view::npos);
        if (object.empty()) {
            if (on_head) {
                on_head(line);
            }
            return true;
        }
        const auto json = parse_json(object);
        understood = json && json->is_object() && visit(*json);
        return understood;
    };
    const auto followed = follow(context, {"GET", path, {}, longest_row}, on_line);
    if (!followed) {
        return followed;
    }
    if (!understood || !ended) {
        return fail(Exit::unreachable, "egressd's answer is not understood, or incomplete");
    }
    return {};
}

/// Calls `visit` for what `read` makes of an object; false: it makes nothing of it.
template <typename Row>
std::function<bool(const Json&)> reader(std::optional<Row> (*read)(const Json&),
                                        const std::function<void(Row&&)>& visit) {
    return [read, &visit](const Json& json) {
        auto row = read(json);
        if (row) {
            visit(std::move(*row));
        }
        return row.has_value();
    };
}

} // namespace

Outcome<void> rows_of_daemon(const Context& context,
                             const std::function<void(store::Row&&)>& visit) {
    return each_object(context, "/v1/blocks", reader(row_of, visit));
}

Outcome<std::uint64_t> traffic_of_daemon(const Context& context,
                                         const std::function<void(store::EventRow&&)>& visit) {
    std::uint64_t damaged = 0;
    const auto on_head = [&](std::string_view line) {
        if (line.find('{') != std::string_view::npos) {
            const auto head = parse_json(std::string(line) + "]}");
            damaged =
                head ? static_cast<std::uint64_t>(number_at(*head, "damaged").value_or(0)) : 0;
        }
    };
    const auto read = each_object(context, "/v1/traffic", reader(event_of, visit), on_head);
    return read ? Outcome<std::uint64_t>(damaged) : std::unexpected(read.error());
}

} // namespace egress::ctl
