// The door of the control socket: accepts connections, and lets in those that have room.
//
// One that has none is answered with 503 and its reason, and closed a moment later: at once would
// be before a client has written its request, which would cost it the answer.
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
    /// Takes over a connection that may come in.
    using Admit = std::function<void(Fd)>;

    /// `shares` says what room there is, and is told by others who comes and goes.
    static Result<std::unique_ptr<Door>> open(sd_event* event, Fd listener, const Shares& shares,
                                              Admit admit);
    /// Once a second.
    void tick();
    std::uint64_t turned_away() const { return turned_away_; }

  private:
    Door(Fd listener, const Shares& shares, Admit admit)
        : listener_(std::move(listener)), shares_(shares), admit_(std::move(admit)) {}
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

/// An answer in HTTP/1.1, for a connection that ends with it. `text` is a text without quotes.
std::string last_words(std::string_view status, std::string_view text);

} // namespace egress
