// Makes lanes (lane.h): a small process, started before the daemon has opened anything, that forks
// them. So no lane ever inherits the database, a listening socket or another lane's end.
#pragma once

#include "daemon/base/result.h"
#include "daemon/report/lane_channel.h"

namespace egress::lane {

class Spawner {
  public:
    Spawner() = default; ///< spawns nothing
    /// Forks the process. To be called before threads, sockets and the database exist; it ends when
    /// this object (or its process) is gone.
    static Result<Spawner> start();

    /// A lane that serves `socket` and writes to `board`, which stay the caller's. False: the
    /// spawner is gone or busy. That the fork failed shows as the end of the lane's pair.
    bool spawn(int socket, int board) const;

  private:
    explicit Spawner(Channel channel) : channel_(std::move(channel)) {}

    Channel channel_;
};

} // namespace egress::lane
