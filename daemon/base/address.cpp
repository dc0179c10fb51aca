#include "daemon/base/address.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include <arpa/inet.h>
#include <netinet/in.h>

namespace egress {

namespace {

constexpr std::array<std::uint8_t, 12> mapped_head = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/// Clears every bit past the first `keep` of the 128.
std::array<std::uint8_t, 16> masked(std::array<std::uint8_t, 16> bytes, int keep) {
    for (int i = 0; i < 16; ++i) {
        const int bits = std::clamp(keep - i * 8, 0, 8);
        bytes[static_cast<std::size_t>(i)] &= static_cast<std::uint8_t>(0xff00 >> bits);
    }
    return bytes;
}

} // namespace

std::optional<Address> Address::from_bytes(std::span<const std::uint8_t> bytes) {
    Address address;
    if (bytes.size() == 4) {
        std::ranges::copy(mapped_head, address.bytes_.begin());
        std::ranges::copy(bytes, address.bytes_.begin() + 12);
        return address;
    }
    if (bytes.size() == 16) {
        std::ranges::copy(bytes, address.bytes_.begin());
        return address;
    }
    return std::nullopt;
}

std::optional<Address> Address::parse(std::string_view text) {
    char buffer[INET6_ADDRSTRLEN];
    if (text.empty() || text.size() >= sizeof buffer || text.find('\0') != text.npos) {
        return std::nullopt;
    }
    std::memcpy(buffer, text.data(), text.size());
    buffer[text.size()] = '\0';
    std::array<std::uint8_t, 16> raw{};
    if (inet_pton(AF_INET, buffer, raw.data()) == 1) {
        return from_bytes(std::span(raw).first(4));
    }
    if (inet_pton(AF_INET6, buffer, raw.data()) == 1) {
        return from_bytes(raw);
    }
    return std::nullopt;
}

std::optional<Address> Address::from(const sockaddr* sa, socklen_t length) {
    const auto endpoint = Endpoint::from(sa, length);
    return endpoint ? std::optional(endpoint->address) : std::nullopt;
}

bool Address::is_v4() const {
    return std::equal(mapped_head.begin(), mapped_head.end(), bytes_.begin());
}

bool Address::is_unspecified() const {
    return std::ranges::all_of(bytes(), [](std::uint8_t byte) { return byte == 0; });
}

std::span<const std::uint8_t> Address::bytes() const {
    return is_v4() ? std::span(bytes_).subspan(12) : std::span(bytes_);
}

std::string Address::text() const {
    char buffer[INET6_ADDRSTRLEN];
    return inet_ntop(family(), bytes().data(), buffer, sizeof buffer);
}

std::optional<Endpoint> Endpoint::from(const sockaddr* sa, socklen_t length) {
    const auto size = static_cast<std::size_t>(length);
    if (sa == nullptr || size < sizeof(sa_family_t)) {
        return std::nullopt;
    }
    if (sa->sa_family == AF_INET && size >= sizeof(sockaddr_in)) {
        sockaddr_in in{};
        std::memcpy(&in, sa, sizeof in);
        std::array<std::uint8_t, 4> bytes{};
        std::memcpy(bytes.data(), &in.sin_addr, bytes.size());
        return Endpoint{*Address::from_bytes(bytes), ntohs(in.sin_port)};
    }
    if (sa->sa_family == AF_INET6 && size >= sizeof(sockaddr_in6)) {
        sockaddr_in6 in6{};
        std::memcpy(&in6, sa, sizeof in6);
        return Endpoint{*Address::from_bytes(in6.sin6_addr.s6_addr), ntohs(in6.sin6_port)};
    }
    return std::nullopt;
}

Prefix Prefix::around(const Address& address, int length) {
    const int width = address.width();
    const int kept = std::clamp(length, 0, width);
    const auto bytes = masked(address.raw(), kept + (128 - width));
    return Prefix{*Address::from_bytes(bytes), static_cast<std::uint8_t>(kept)};
}

std::optional<Prefix> Prefix::parse(std::string_view text) {
    const auto slash = text.find('/');
    const auto address = Address::parse(text.substr(0, slash));
    if (!address) {
        return std::nullopt;
    }
    int length = address->width();
    if (slash != std::string_view::npos) {
        const auto digits = text.substr(slash + 1);
        const auto [end, ec] =
            std::from_chars(digits.data(), digits.data() + digits.size(), length);
        if (ec != std::errc{} || end != digits.data() + digits.size() || digits.front() == '-' ||
            length > address->width()) {
            return std::nullopt;
        }
    }
    const Prefix prefix = around(*address, length);
    return prefix.base == *address ? std::optional(prefix) : std::nullopt;
}

bool Prefix::contains(const Address& address) const {
    return address.is_v4() == base.is_v4() && around(address, length).base == base;
}

std::string Prefix::text() const {
    return is_host() ? base.text() : base.text() + "/" + std::to_string(length);
}

} // namespace egress
