// A message from the report socket -> a Report that is verified, or the reason why it is none.
//
// The fd is the proof: addresses, port and type come from the kernel. What the message itself says
// of an address is used only where the kernel cannot know it, and only from reporters who may.
//
// In two steps, because asking a stranger's descriptor may wait without end: a lane (lane.h) calls
// examine(), which asks the kernel; the loop calls conclude(), which asks the rules and nobody
// else.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <variant>

#include "daemon/base/address.h"
#include "daemon/count/report.h"
#include "lib/wire.h"

namespace egress {

/// Why a message is no report. Each kind is counted by name (refusal_names).
enum class Refusal : std::uint8_t {
    too_short,
    too_long,
    bad_magic,
    bad_version,
    bad_length,
    bad_action,
    bad_address,
    no_credentials,
    no_fd,            ///< no descriptor, and the reporter is not trusted to have none
    lost_fd,          ///< a descriptor was sent, and we had no number left for it
    many_fds,         ///< more than one descriptor
    not_a_socket,     ///< a pipe, a file
    not_inet,         ///< AF_UNIX and others
    unbound,          ///< a socket without a local port
    not_connected,    ///< a stream socket that has no peer
    listening,        ///< a listening socket from a reporter who is not trusted
    no_address,       ///< nobody knows the remote address
    wrong_family,     ///< the address cannot have come in on that socket
    other_namespace,  ///< a socket of another network namespace, where its maker may be any address
    wrong_protocol,   ///< a protocol number that no packet carries
    stuck,            ///< what came with it kept its lane waiting, and the lane was given up
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

/// What came with the message, as the kernel says.
struct Sender {
    std::uint32_t uid = 0;
    std::int32_t pid = 0;
};

/// What a lane found out about one message. Plain bytes: it crosses a shared mapping.
struct Finding {
    Refusal refusal = Refusal::count_; ///< count_: none that needs no rules
    bool has_sender = false;
    Sender sender;
    Action action = Action::ok;
    bool verified = false;  ///< EGRESS_VERIFIED
    bool by_socket = false; ///< a socket came with it; all below but `said` is of that socket
    bool connected = false; ///< `remote` is the kernel's word
    bool listens = false;
    bool speaks_said = true;      ///< an address like `said` can come in on it
    bool other_namespace = false; ///< not of the daemon's own network namespace
    bool says = false;            ///< the record brings an address ...
    bool said_well = false;       ///< ... which is `said`
    Endpoint local;
    Endpoint remote;
    Endpoint said;
    int type = 0;
    int protocol = 0;
    std::uint32_t maker = 0; ///< uid that opened or accepted it
    std::uint16_t message_length = 0;
};

/// Asks the kernel about a decoded record and at most one descriptor (-1: none), which stays the
/// caller's. May wait for as long as a holder of the descriptor likes.
Finding examine(const wire::Record& record, int fd, const Sender& sender);

/// Makes a Report of a finding by what the rules allow. `message` is the record's text.
std::variant<Report, Refusal> conclude(const Finding& finding, std::string_view message,
                                       const TrustedReporters& trusted);

Refusal refusal_of(wire::Fault fault);

} // namespace egress
