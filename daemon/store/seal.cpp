#include "daemon/store/seal.h"

#include "daemon/store/checksum.h"

namespace egress::store {

namespace {

constexpr std::uint8_t seal_version = 2;
constexpr std::size_t tables_of_version_1 = 3;

std::uint32_t checksum(View key, View value) {
    // Include the key's length: else a longer key with a shorter value would give the same bytes.
    const std::array<std::uint8_t, 2> length = {static_cast<std::uint8_t>(key.size() >> 8),
                                                static_cast<std::uint8_t>(key.size())};
    return crc32c(value, crc32c(key, crc32c(length)));
}

} // namespace

void append_checksum(Bytes& out, std::size_t key, std::size_t value) {
    const View all(out);
    put(out, checksum(all.subspan(key, value - key), all.subspan(value)), checksum_bytes);
}

void append_checksum(View key, Bytes& value) {
    put(value, checksum(key, value), checksum_bytes);
}

std::uint32_t checksum_of(View value) {
    return value.size() < checksum_bytes ? 0 : ByteReader(value.last(checksum_bytes)).number(4);
}

std::optional<View> checked(View key, View value) {
    if (value.size() < checksum_bytes) {
        return std::nullopt;
    }
    const View body = value.first(value.size() - checksum_bytes);
    return checksum(key, body) == checksum_of(value) ? std::optional(body) : std::nullopt;
}

Bytes encode(const Seal& seal) {
    Bytes out;
    put(out, seal_version, 1);
    put(out, seal.transaction, 8);
    for (const auto& sum : seal.of) {
        put(out, sum.count, 8);
        put(out, sum.sum, 8);
        put(out, sum.known ? 1 : 0, 1);
    }
    append_checksum(view_of(seal_key), out);
    return out;
}

std::optional<Seal> decode_seal(View value) {
    const auto body = checked(view_of(seal_key), value);
    if (!body) {
        return std::nullopt;
    }
    ByteReader in(*body);
    Seal seal;
    const auto version = in.number(1);
    const bool ours = version == 1 || version == seal_version;
    seal.transaction = in.large(8);
    for (auto& sum : std::span(seal.of).first(version == 1 ? tables_of_version_1 : tables)) {
        sum.count = in.large(8);
        sum.sum = in.large(8);
        sum.known = in.number(1) == 1;
    }
    return ours && in.done() ? std::optional(seal) : std::nullopt;
}

} // namespace egress::store
