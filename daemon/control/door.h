// The door of the control socket: accepts connections, and admits those within their shares.
//
// It answers the others with 503 and the reason, and closes them a moment later: if it closed them
// before the client has written its request, the client would lose the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/loop.h"
#include "daemon/base/result.h"
#include "daemon/control/shares.h"
#include "lib/fd.h"

namespace egress {

class Door {
  public:
    /// Takes over an admitted connection.
    using Admit = std::function<void(Fd)>;

    /// The door only reads `shares`; others enter and remove connections.
    static Result<std::unique_ptr<Door>> open(sd_event* event, Fd listener, const Shares& shares,
                                              Admit admit);
    /// Listens on another socket from now on. Who waits in the one before is let in first.
    Result<> move_to(Fd listener);
    /// Call once a second.
    void tick();
    std::uint64_t turned_away() const { return turned_away_; }

  private:
    Door(const Shares& shares, Admit admit) : shares_(shares), admit_(std::move(admit)) {}
    Result<> listen(sd_event* event, Fd listener);
    bool accept_one();
    void turn_away(Fd connection, std::uint32_t uid, Shares::Room room);

    struct Turned {
        Fd connection;
        int ticks = 0;
    };
    Fd listener_;
    const Shares& shares_;
    Admit admit_;
    Source source_;
    std::vector<Turned> turned_;
    std::uint64_t turned_away_ = 0;
};

/// An HTTP/1.1 answer that ends the connection. `text` must have no quotes.
std::string last_words(std::string_view status, std::string_view text);

} // namespace egress
