// Requests that visit many entries or rows: a piece in each turn of the loop, so that reports and
// other requests go on meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <list>

#include <systemd/sd-event.h>

#include "daemon/base/loop.h"

namespace egress {

class Tasks {
  public:
    static constexpr std::size_t most = 8; ///< at a time: each may hold a body of 16 MiB

    static constexpr std::uint32_t rows = 4096; ///< for a piece to look at

    /// Does a piece, of a millisecond or so; false: that was the last.
    using Piece = std::function<bool()>;

    explicit Tasks(sd_event* event) : event_(event) {}
    /// Runs the task from the next turn on. False: there are `most` already, or the loop refuses.
    bool begin(Piece piece);

  private:
    void turn();

    sd_event* event_;
    std::list<Piece> tasks_;
    Source timer_;
};

} // namespace egress
