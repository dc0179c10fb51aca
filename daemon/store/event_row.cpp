#include "daemon/store/event_row.h"

#include <algorithm>

#include "daemon/store/bytes.h"

namespace egress::store {

namespace {

constexpr std::uint8_t kind_event = 'e';
constexpr std::uint8_t key_version = 1;
constexpr std::uint8_t value_version = 1;

bool decode_key(std::span<const std::uint8_t> key, EventRow& row) {
    ByteReader in(key);
    if (in.number(1) != kind_event || in.number(1) != key_version) {
        return false;
    }
    row.uid = in.number(4);
    row.gid = in.number(4);
    const auto action = in.number(1);
    row.action = static_cast<EventRow::Action>(action);
    row.flags = static_cast<std::uint8_t>(in.number(1));
    row.type = static_cast<std::uint8_t>(in.number(1));
    row.protocol = static_cast<std::uint8_t>(in.number(1));
    row.port = static_cast<std::uint16_t>(in.number(2));
    const auto family = in.number(1);
    if (family != 0) {
        row.address = Address::from_bytes(in.take(family == 4 ? 4 : 16));
    }
    row.program = in.text(1);
    row.rule = in.text(1);
    return in.done() && action <= static_cast<std::uint32_t>(EventRow::Action::monitored) &&
           (family == 0 || ((family == 4 || family == 6) && row.address));
}

} // namespace

void encode_key(const EventRow& row, std::vector<std::uint8_t>& out) {
    put(out, kind_event, 1);
    put(out, key_version, 1);
    put(out, row.uid, 4);
    put(out, row.gid, 4);
    put(out, static_cast<std::uint8_t>(row.action), 1);
    put(out, row.flags, 1);
    put(out, row.type, 1);
    put(out, row.protocol, 1);
    put(out, row.port, 2);
    put(out, !row.address ? 0 : row.address->is_v4() ? 4 : 6, 1);
    if (row.address) {
        const auto bytes = row.address->bytes();
        out.insert(out.end(), bytes.begin(), bytes.end());
    }
    put_text(out, row.program, max_program, 1);
    const auto cut = row.rule.size() - std::min(row.rule.size(), max_rule);
    put_text(out, std::string_view(row.rule).substr(cut), max_rule, 1);
}

void encode_value(const EventRow& row, std::vector<std::uint8_t>& out) {
    put(out, value_version, 1);
    put(out, row.count, 8);
    put(out, row.first, 4);
    put(out, row.last, 4);
}

std::optional<EventRow> decode_event(std::span<const std::uint8_t> key,
                                     std::span<const std::uint8_t> value) {
    EventRow row;
    ByteReader in(value);
    if (!decode_key(key, row) || in.number(1) != value_version) {
        return std::nullopt;
    }
    row.count = in.large(8);
    row.first = in.number(4);
    row.last = in.number(4);
    return in.done() ? std::optional(std::move(row)) : std::nullopt;
}

EventRow widened(EventRow row) {
    row.flags |= EventRow::wide;
    row.address.reset();
    return row;
}

EventRow overflowed(const EventRow& row) {
    EventRow out;
    out.uid = 0xffffffff;
    out.gid = 0xffffffff;
    out.action = row.action;
    out.flags = EventRow::overflow;
    out.count = row.count;
    out.first = row.first;
    out.last = row.last;
    return out;
}

void merge(EventRow& into, const EventRow& more) {
    into.count += more.count;
    into.first = std::min(into.first, more.first);
    into.last = std::max(into.last, more.last);
}

std::string_view name_of(EventRow::Action action) {
    return action == EventRow::Action::blocked   ? "BLOCKED"
           : action == EventRow::Action::allowed ? "ALLOWED"
                                                 : "MONITOR";
}

} // namespace egress::store
