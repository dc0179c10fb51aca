#include "daemon/store/records.h"

#include <algorithm>

#include <fmt/format.h>

#include "daemon/base/log.h"
#include "daemon/store/bytes.h"

namespace egress::store {

namespace {

constexpr std::uint8_t kind_row = 'r';
constexpr std::uint8_t key_version = 1;
constexpr std::uint8_t value_version = 1;

bool decode_key(std::span<const std::uint8_t> key, Row& row) {
    ByteReader in(key);
    if (in.number(1) != kind_row || in.number(1) != key_version) {
        return false;
    }
    row.name = in.text(1);
    const auto family = in.number(1);
    const auto address = Address::from_bytes(in.take(family == 4 ? 4 : 16));
    if (!address || (family != 4 && family != 6) || row.name.empty() ||
        row.name.size() > max_name) {
        return false;
    }
    const auto length = static_cast<int>(in.number(1));
    row.address = Prefix::around(*address, length);
    row.protocol = static_cast<std::uint8_t>(in.number(1));
    row.port = static_cast<std::uint16_t>(in.number(2));
    return in.done() && length <= address->width() && row.address.base == *address;
}

bool decode_value(std::span<const std::uint8_t> value, Row& row) {
    ByteReader in(value);
    if (in.number(1) != value_version) {
        return false;
    }
    const auto state = in.number(1);
    row.state = static_cast<State>(state);
    row.flags = static_cast<std::uint8_t>(in.number(1));
    row.grow_length = static_cast<std::uint8_t>(in.number(1));
    row.strikes = static_cast<std::uint16_t>(in.number(2));
    row.count = in.number(4);
    row.nfail = in.number(4);
    row.last = in.number(4);
    row.since = in.number(4);
    row.until = in.number(4);
    const auto failures = in.number(1);
    if (state > static_cast<std::uint32_t>(State::releasing) || failures > max_history) {
        return false;
    }
    for (std::uint32_t i = 0; i < failures && in.ok(); ++i) {
        const auto time = in.number(4);
        row.history.push_back({time, static_cast<std::uint16_t>(in.number(2))});
    }
    row.id = in.text(1);
    row.reason = in.text(2);
    return in.done();
}

} // namespace

void encode_key(const Row& row, Bytes& out) {
    put(out, kind_row, 1);
    put(out, key_version, 1);
    put_text(out, row.name, max_name, 1);
    put(out, row.address.base.is_v4() ? 4 : 6, 1);
    const auto address = row.address.base.bytes();
    out.insert(out.end(), address.begin(), address.end());
    put(out, row.address.length, 1);
    put(out, row.protocol, 1);
    put(out, row.port, 2);
}

void encode_value(const Row& row, Bytes& out) {
    put(out, value_version, 1);
    put(out, static_cast<std::uint8_t>(row.state), 1);
    put(out, row.flags, 1);
    put(out, row.grow_length, 1);
    put(out, row.strikes, 2);
    put(out, row.count, 4);
    put(out, row.nfail, 4);
    put(out, row.last, 4);
    put(out, row.since, 4);
    put(out, row.until, 4);
    const auto failures = std::min(row.history.size(), max_history);
    put(out, failures, 1);
    for (std::size_t i = 0; i < failures; ++i) {
        put(out, row.history[i].time, 4);
        put(out, row.history[i].failures, 2);
    }
    put_text(out, row.id, 255, 1);
    put_text(out, row.reason, max_reason, 2);
}

std::optional<Row> decode(std::span<const std::uint8_t> key, std::span<const std::uint8_t> value) {
    Row row;
    if (!decode_key(key, row) || !decode_value(value, row)) {
        return std::nullopt;
    }
    return row;
}

std::string key_text(std::span<const std::uint8_t> key) {
    Row row;
    if (!decode_key(key, row)) {
        return {};
    }
    return fmt::format("{} {} protocol {} port {}", escape(row.name, max_name), row.address.text(),
                       row.protocol, row.port);
}

} // namespace egress::store
