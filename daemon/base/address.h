// IP addresses and prefixes in the form that the whole daemon uses.
//
// IPv4 is stored as its IPv4-mapped IPv6 address, so "::ffff:192.0.2.1" and "192.0.2.1" are equal
// everywhere by construction. Prefix lengths are the family's own (0..32 or 0..128).
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <sys/socket.h>

namespace egress {

class Address {
  public:
    constexpr Address() = default; ///< the IPv6 unspecified address "::"

    /// Numeric text only ("192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"); nullopt: anything else.
    static std::optional<Address> parse(std::string_view text);
    /// nullopt: neither AF_INET nor AF_INET6, or a length too short for its family.
    static std::optional<Address> from(const sockaddr* sa, socklen_t length);
    /// Four bytes: IPv4; sixteen: IPv6 or mapped IPv4; network byte order.
    static std::optional<Address> from_bytes(std::span<const std::uint8_t> bytes);

    bool is_v4() const;
    int family() const { return is_v4() ? AF_INET : AF_INET6; }
    int width() const { return is_v4() ? 32 : 128; } ///< bits of the family
    /// "0.0.0.0" or "::".
    bool is_unspecified() const;
    /// Network byte order: 4 bytes for IPv4, 16 for IPv6. Valid as long as this object.
    std::span<const std::uint8_t> bytes() const;
    /// All 16 bytes, IPv4 mapped.
    const std::array<std::uint8_t, 16>& raw() const { return bytes_; }
    std::string text() const;

    friend auto operator<=>(const Address&, const Address&) = default;

  private:
    std::array<std::uint8_t, 16> bytes_{};
};

/// An address and a port in host byte order (0: unknown or any).
struct Endpoint {
    Address address;
    std::uint16_t port = 0;

    static std::optional<Endpoint> from(const sockaddr* sa, socklen_t length);
    friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

struct Prefix {
    Address base;            ///< host bits are zero
    std::uint8_t length = 0; ///< in bits of the base's family

    /// The prefix of this length around the address; lengths over the family's width are clamped.
    static Prefix around(const Address& address, int length);
    static Prefix host(const Address& address) { return around(address, address.width()); }
    /// "addr" or "addr/len"; nullopt: anything else, or host bits are set.
    static std::optional<Prefix> parse(std::string_view text);

    bool is_host() const { return length == base.width(); }
    bool contains(const Address& address) const;
    std::string text() const; ///< "192.0.2.1", "192.0.2.0/24"

    friend auto operator<=>(const Prefix&, const Prefix&) = default;
};

} // namespace egress
