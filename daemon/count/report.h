// A verified report of a log-in: the ledger counts these.
//
// report/verify.h makes it from a message and the kernel's data about the socket that came with it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "daemon/base/address.h"

namespace egress {

/// The action of a report, without EGRESS_VERIFIED.
enum class Action : std::uint8_t { ok = 0, fail = 1, abusive = 2, bad_user = 3 };

struct Report {
    Action action = Action::ok;
    /// The remote may have forged its address: counts only if a rule allows it.
    bool forgeable = false;
    Endpoint local;
    Endpoint remote;
    /// The port that the remote addressed, which this host translates to local.port ("redirect",
    /// "dnat"); 0: no translation is known.
    std::uint16_t outer_port = 0;
    int type = 0;
    int protocol = 0;
    std::uint32_t uid = 0;
    std::int32_t pid = 0;
    bool by_socket = false;   ///< a socket came with the report
    std::uint32_t maker = 0;  ///< uid that opened or accepted that socket
    bool vouched = false;     ///< a [trusted] line vouches for a socket of another namespace
    std::string_view message; ///< as sent, unescaped; valid as long as the message's buffer

    /// The port of the remote's packets when they come in, before any translation.
    std::uint16_t port() const { return outer_port != 0 ? outer_port : local.port; }
};

/// The process that opened the connection of a report.
class ReportingProcess {
  public:
    virtual ~ReportingProcess() = default;
    /// True if it is in the cgroup at this path below the cgroup2 root, or in one below that.
    virtual bool inside(const std::string& cgroup) const = 0;
};

/// Who reports, for the lines of [trusted].
struct Reporter {
    std::uint32_t uid = 0;
    const ReportingProcess* process = nullptr; ///< null: unknown, which is in no cgroup
};

/// Those who may report without a descriptor, and those with reserved lanes.
class TrustedReporters {
  public:
    virtual ~TrustedReporters() = default;
    /// Fills in the service that the reporter may report for. False: he may not.
    virtual bool service_of(const Reporter& reporter, Endpoint& local, int& type,
                            int& protocol) const = 0;
    /// True if a line vouches for the reporter's sockets of other network namespaces, for this
    /// service.
    virtual bool vouches(const Reporter& reporter, const Endpoint& local, int type,
                         int protocol) const = 0;
    /// True for root and each uid that a line of the rules names as owner: they have reserved
    /// lanes.
    virtual bool is_known(std::uint32_t uid) const = 0;
};

} // namespace egress
