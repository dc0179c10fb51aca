// A report of a log-in, verified: what the ledger counts.
//
// report/verify.h makes it of a message and what the kernel says of the socket that came with it.
#pragma once

#include <cstdint>
#include <string_view>

#include "daemon/base/address.h"

namespace egress {

/// What a server reported, without the flag.
enum class Action : std::uint8_t { ok = 0, fail = 1, abusive = 2, bad_user = 3 };

struct Report {
    Action action = Action::ok;
    /// The remote may have forged its address: counts only where a rule says so.
    bool forgeable = false;
    Endpoint local;
    Endpoint remote;
    int type = 0;
    int protocol = 0;
    std::uint32_t uid = 0;
    std::int32_t pid = 0;
    bool by_socket = false;   ///< a socket came with it
    std::uint32_t maker = 0;  ///< uid that opened or accepted that socket
    std::string_view message; ///< as sent, unescaped; valid while the message's buffer is
};

/// Who may report without a descriptor of its own: fills the service, or returns false.
class TrustedReporters {
  public:
    virtual ~TrustedReporters() = default;
    virtual bool service_of(std::uint32_t uid, Endpoint& local, int& type, int& protocol) const = 0;
    /// Root, and each uid that a line of the rules names as owner: lanes are reserved for it.
    virtual bool is_known(std::uint32_t uid) const = 0;
};

} // namespace egress
