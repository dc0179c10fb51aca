#include "lib/wire.h"

#include <cerrno>
#include <cstring>

#include "lib/api.h"
#include "lib/utf8.h"

namespace egress::wire {
namespace {

constexpr bool is_action(std::uint32_t action) {
    return (action & ~static_cast<std::uint32_t>(EGRESS_VERIFIED)) <= EGRESS_BAD_USER;
}

/// Fills the address fields of a head. False: the address is invalid.
bool put_address(Head& head, const sockaddr* remote, socklen_t length) {
    if (remote == nullptr) {
        return length == 0;
    }
    if (length < sizeof(remote->sa_family) + offsetof(sockaddr, sa_family)) {
        return false;
    }
    if (remote->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
        sockaddr_in in;
        std::memcpy(&in, remote, sizeof in); // the caller's memory need not be aligned
        head.family = AF_INET;
        head.port = in.sin_port;
        std::memcpy(head.address, &in.sin_addr, sizeof in.sin_addr);
        return true;
    }
    if (remote->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
        sockaddr_in6 in6;
        std::memcpy(&in6, remote, sizeof in6);
        head.family = AF_INET6;
        head.port = in6.sin6_port;
        std::memcpy(head.address, &in6.sin6_addr, sizeof in6.sin6_addr);
        head.scope = in6.sin6_scope_id;
        return true;
    }
    return false;
}

bool all_zero(const std::uint8_t* bytes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

/// Reads the address fields of a head. Fields that its family does not use must be zero.
bool get_address(const Head& head, Record& out) {
    switch (head.family) {
    case AF_UNSPEC:
        return head.port == 0 && head.scope == 0 && all_zero(head.address, sizeof head.address);
    case AF_INET: {
        sockaddr_in in{};
        if (head.scope != 0 || !all_zero(head.address + sizeof in.sin_addr,
                                         sizeof head.address - sizeof in.sin_addr)) {
            return false;
        }
        in.sin_family = AF_INET;
        in.sin_port = head.port;
        std::memcpy(&in.sin_addr, head.address, sizeof in.sin_addr);
        std::memcpy(&out.remote, &in, sizeof in);
        out.remote_length = sizeof in;
        return true;
    }
    case AF_INET6: {
        sockaddr_in6 in6{};
        in6.sin6_family = AF_INET6;
        in6.sin6_port = head.port;
        in6.sin6_scope_id = head.scope;
        std::memcpy(&in6.sin6_addr, head.address, sizeof in6.sin6_addr);
        std::memcpy(&out.remote, &in6, sizeof in6);
        out.remote_length = sizeof in6;
        return true;
    }
    default:
        return false;
    }
}

} // namespace

std::size_t utf8_cut(std::string_view text, std::size_t limit) {
    if (text.size() <= limit) {
        return text.size();
    }
    const char* bytes = text.data();
    // If the first byte after the cut is no continuation byte, the cut is already clean.
    for (std::size_t back = 0; back < 4 && utf8::is_continuation(bytes[limit - back]); ++back) {
        if (back == limit) {
            return limit; // continuation bytes without a start byte: not UTF-8
        }
        const std::size_t start = limit - back - 1;
        const std::size_t wanted = utf8::length_of(static_cast<unsigned char>(bytes[start]));
        if (!utf8::is_continuation(bytes[start])) {
            return wanted > back + 1 ? start : limit;
        }
    }
    return limit;
}

std::span<std::byte> encode(std::span<std::byte, max_record> out, int action,
                            const sockaddr* remote, socklen_t remote_length,
                            std::string_view message) {
    Head head{};
    if (!is_action(static_cast<std::uint32_t>(action)) ||
        !put_address(head, remote, remote_length)) {
        return {};
    }
    const std::size_t text = utf8_cut(message, max_message);
    head.magic = magic;
    head.version = version;
    head.length = static_cast<std::uint16_t>(sizeof head + text);
    head.action = static_cast<std::uint32_t>(action);
    head.message_length = static_cast<std::uint16_t>(text);
    std::memcpy(out.data(), &head, sizeof head);
    if (text > 0) {
        std::memcpy(out.data() + sizeof head, message.data(), text);
    }
    return {out.data(), sizeof head + text};
}

Fault decode(std::span<const std::byte> bytes, Record& out) {
    Head head;
    if (bytes.size() < sizeof head) {
        return Fault::too_short;
    }
    std::memcpy(&head, bytes.data(), sizeof head);
    if (head.magic != magic) {
        return Fault::bad_magic;
    }
    // A later version may use the reserved field.
    if (head.version != version || head.reserved != 0) {
        return Fault::bad_version;
    }
    if (head.length != bytes.size() || head.message_length > max_message ||
        sizeof head + head.message_length != bytes.size()) {
        return Fault::bad_length;
    }
    if (!is_action(head.action)) {
        return Fault::bad_action;
    }
    Record record;
    if (!get_address(head, record)) {
        return Fault::bad_address;
    }
    record.verified = (head.action & EGRESS_VERIFIED) != 0;
    record.action = head.action & ~static_cast<std::uint32_t>(EGRESS_VERIFIED);
    record.message = {reinterpret_cast<const char*>(bytes.data()) + sizeof head,
                      head.message_length};
    out = record;
    return Fault::none;
}

} // namespace egress::wire
