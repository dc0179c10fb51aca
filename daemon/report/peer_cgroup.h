// The cgroup of the process that opened a report connection, from the kernel (Linux 6.5).
//
// A number of a process is no proof: it may belong to another process by now. The connection itself
// knows who opened it, for as long as it is open. Never waits: asks only about our own sockets.
#pragma once

#include <map>
#include <string>

#include "daemon/count/report.h"

namespace egress {

/// The process that opened `connection`, an accepted socket that the caller keeps. Asks once for
/// each cgroup: for the messages of one turn.
class PeerProcess final : public ReportingProcess {
  public:
    explicit PeerProcess(int connection) : connection_(connection) {}
    /// False also if the kernel cannot say, or the process has ended and the kernel is older than
    /// Linux 6.15.
    bool inside(const std::string& cgroup) const override;

  private:
    bool look_up(const std::string& cgroup) const;

    int connection_;
    mutable std::map<std::string, bool> inside_;
};

/// True if the living process of this pidfd is in the cgroup at `directory`, or in one below it.
/// For kernels before Linux 6.13, which do not tell a pidfd's cgroup.
bool is_member(int pidfd, const std::string& directory);

} // namespace egress
