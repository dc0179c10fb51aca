// The record that crosses the report socket: layout, limits, encode and decode.
//
// Library and daemon share this header and nothing else. One record is one SOCK_SEQPACKET message;
// it carries the reporting server's file descriptor as SCM_RIGHTS (exactly one, or none if the
// daemon trusts the reporter without a socket). Both ends run on one host, so integers are in host
// byte order; the port inside an address is in network byte order, as in struct sockaddr.
//
// The code here neither allocates nor throws and calls only memcpy: encode runs in signal handlers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <netinet/in.h>
#include <sys/socket.h>

namespace egress::wire {

inline constexpr std::uint32_t magic = 0x31524745; ///< "EGR1" in memory on a little-endian host
inline constexpr std::uint16_t version = 1;
inline constexpr std::size_t max_message = 1024; ///< bytes of message text, no terminator

/// Fixed head of every record; `message_length` bytes of text follow it.
struct Head {
    std::uint32_t magic;
    std::uint16_t version;
    std::uint16_t length; ///< bytes of the whole record, head included
    std::uint32_t action; ///< EGRESS_*, possibly with EGRESS_VERIFIED or-ed in
    std::uint16_t family; ///< of the address: AF_INET, AF_INET6; 0: no address
    std::uint16_t port;   ///< network byte order
    std::uint8_t address[16];
    std::uint32_t scope; ///< sin6_scope_id
    std::uint16_t message_length;
    std::uint16_t reserved; ///< 0
};
static_assert(sizeof(Head) == 40);

inline constexpr std::size_t max_record = sizeof(Head) + max_message;

/// Why bytes are not a valid record. The daemon counts each kind by name.
enum class Fault : std::uint8_t {
    none,
    too_short,   ///< fewer bytes than a head
    bad_magic,   ///< not a record
    bad_version, ///< another version of the library
    bad_length,  ///< length fields disagree with the bytes received
    bad_action,  ///< an action that does not exist
    bad_address, ///< a family that is neither IPv4 nor IPv6
};

struct Record {
    std::uint32_t action = 0;    ///< without flags
    bool verified = false;       ///< EGRESS_VERIFIED was set
    socklen_t remote_length = 0; ///< 0: no address in the record
    sockaddr_storage remote{};
    std::string_view message; ///< as sent, unescaped; points into the decoded bytes
};

/// Length of the longest prefix of `text` of at most `limit` bytes that does not end inside a UTF-8
/// sequence. Text that is not UTF-8 is cut at `limit`.
std::size_t utf8_cut(std::string_view text, std::size_t limit);

/// Writes a record to the front of `out` and returns its bytes; `remote` null: no address. Cuts the
/// message at max_message. Empty: the action or the address is invalid (EINVAL), for example an
/// address shorter than its family's struct.
std::span<std::byte> encode(std::span<std::byte, max_record> out, int action,
                            const sockaddr* remote, socklen_t remote_length,
                            std::string_view message);

/// Reads one record. Writes `out` only on Fault::none.
Fault decode(std::span<const std::byte> bytes, Record& out);

} // namespace egress::wire
