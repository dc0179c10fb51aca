// Any bytes: refused, or a record that encodes to exactly those bytes.
#include "lib/wire.h"

#include <array>
#include <cstdlib>
#include <cstring>

#include "lib/api.h"

using namespace egress;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    wire::Record record;
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
    const auto* text = reinterpret_cast<const char*>(data);
    const std::size_t limit = size / 2;
    if (wire::utf8_cut({text, size}, limit) > limit) {
        std::abort();
    }
    if (wire::decode(bytes, record) != wire::Fault::none) {
        return 0;
    }
    std::array<std::byte, wire::max_record> buffer;
    const int action = static_cast<int>(record.action) | (record.verified ? EGRESS_VERIFIED : 0);
    const auto* remote =
        record.remote_length > 0 ? reinterpret_cast<const sockaddr*>(&record.remote) : nullptr;
    const auto again = wire::encode(buffer, action, remote, record.remote_length, record.message);
    const bool cut = wire::utf8_cut(record.message, wire::max_message) != record.message.size();
    if (cut || again.size() != size || std::memcmp(again.data(), data, size) != 0) {
        std::abort();
    }
    return 0;
}
