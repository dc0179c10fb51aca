// A message from the report socket -> a verified Report, or the reason for its refusal.
//
// The fd is the proof: addresses, port and type come from the kernel. The address in the message is
// used only if the kernel cannot know it, and only from reporters that the rules trust.
//
// It has two steps, because a system call on a stranger's descriptor may wait for ever: a lane
// (lane.h) calls examine(), which queries the kernel; the loop calls conclude(), which uses only
// the rules.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <span>
#include <string_view>

#include "daemon/base/address.h"
#include "daemon/count/report.h"
#include "lib/wire.h"

namespace egress {

/// Why a message is refused. Each kind is counted by name (refusal_names).
enum class Refusal : std::uint8_t {
    too_short,
    too_long,
    bad_magic,
    bad_version,
    bad_length,
    bad_action,
    bad_address,
    no_credentials,
    no_fd,            ///< no descriptor, and the rules do not trust the reporter without one
    lost_fd,          ///< a descriptor was sent, but we had no free number for it
    many_fds,         ///< more than one descriptor
    not_a_socket,     ///< a pipe, a file
    not_inet,         ///< AF_UNIX and others
    unbound,          ///< a socket without a local port
    not_connected,    ///< a stream socket without a peer
    listening,        ///< a listening socket from an untrusted reporter
    no_address,       ///< neither kernel nor message has the remote address
    wrong_family,     ///< the address cannot arrive on that socket
    other_namespace,  ///< its network namespace is another, where its maker may have any address
    wrong_protocol,   ///< not a protocol number of packets
    stuck,            ///< its descriptor blocked its lane, and the lane was given up
    unusable_address, ///< 0.0.0.0 or ::
    count_,
};

inline constexpr std::array<std::string_view, static_cast<std::size_t>(Refusal::count_)>
    refusal_names = {"too_short",  "too_long",        "bad_magic",       "bad_version",
                     "bad_length", "bad_action",      "bad_address",     "no_credentials",
                     "no_fd",      "lost_fd",         "many_fds",        "not_a_socket",
                     "not_inet",   "unbound",         "not_connected",   "listening",
                     "no_address", "wrong_family",    "other_namespace", "wrong_protocol",
                     "stuck",      "unusable_address"};

/// The sender of a message, from the kernel.
struct Sender {
    std::uint32_t uid = 0;
    std::int32_t pid = 0;
};

/// The result of a lane for one message. Plain bytes: it crosses a shared mapping.
struct Finding {
    Refusal refusal = Refusal::count_; ///< count_: not refused so far; conclude() still may
    bool has_sender = false;
    Sender sender;
    Action action = Action::ok;
    bool verified = false;  ///< EGRESS_VERIFIED
    bool by_socket = false; ///< a socket came with it; the fields below except `said` are of it
    bool connected = false; ///< `remote` comes from the kernel
    bool listens = false;
    bool speaks_said = true;      ///< the family of `said` can arrive on it
    bool other_namespace = false; ///< not in the daemon's network namespace
    bool says = false;            ///< the record has an address ...
    bool said_well = false;       ///< ... which is valid and in `said`
    Endpoint local;
    Endpoint remote;
    Endpoint said;
    std::uint16_t outer_port = 0; ///< as in Report
    int type = 0;
    int protocol = 0;
    std::uint32_t maker = 0; ///< uid that opened or accepted it
    std::uint16_t message_length = 0;
};

/// Queries the kernel about a decoded record and its descriptor (-1: none), which the caller keeps.
/// May wait as long as a holder of the descriptor likes.
Finding examine(const wire::Record& record, int fd, const Sender& sender);

/// Turns a finding into a Report if the rules allow it. `message` is the record's text; `process`
/// opened the connection that it came by (null: unknown).
std::expected<Report, Refusal> conclude(const Finding& finding, std::string_view message,
                                        const TrustedReporters& trusted,
                                        const ReportingProcess* process = nullptr);

Refusal refusal_of(wire::Fault fault);

} // namespace egress
