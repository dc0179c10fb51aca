// Starts lanes (lane.h): a small process, started before the daemon opens anything, forks them. So
// no lane inherits the database, a listening socket or another lane's end.
#pragma once

#include "daemon/base/result.h"
#include "daemon/report/lane_channel.h"

namespace egress::lane {

class Spawner {
  public:
    Spawner() = default; ///< spawns nothing
    /// Forks the process. Call it before threads, sockets and the database exist. The process ends
    /// with this object (or its process).
    static Result<Spawner> start();

    /// Starts a lane that serves `socket` and writes to `board`; the caller keeps both. False: the
    /// spawner is gone or busy. A failed fork shows as the end of the lane's pair.
    bool spawn(int socket, int board) const;

  private:
    explicit Spawner(Channel channel) : channel_(std::move(channel)) {}

    Channel channel_;
};

} // namespace egress::lane
