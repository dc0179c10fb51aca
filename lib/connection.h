// The connection behind a handle: many reports, any thread, signal handlers, forked children.
//
// Two dangers shape it. A descriptor number that one thread closes may be reused by the program
// before another thread writes to it; so a broken connection is replaced in place, by dup3 over its
// own number, and the number is given back only by close(). And the program may close the number
// behind our back; so its owner is checked by the socket's cookie (which the kernel never gives out
// twice) before anything is written to it, replaced or closed. The check is one getsockopt, about a
// tenth of what sending costs.
//
// Nothing waits: who finds another report (of a thread, or the one that this signal handler
// interrupted) in the middle of reconnecting sends over a connection of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "lib/peer.h"

namespace egress {

class Connection {
  public:
    /// Connects; that this fails is no error, the first report tries again.
    explicit Connection(const Target& target);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    /// Sends a record with a descriptor (-1: none), over a new connection where the old one is
    /// broken. Returns 0 or an errno value. Safe in signal handlers and from several threads.
    int send(std::span<const std::byte> record, int fd);

    /// Gives the descriptor back. Nothing may use the connection during it or later.
    void close();

  private:
    /// A descriptor number and the socket that it stands for, in one atomic word.
    using Slot = std::uint64_t;
    static_assert(std::atomic<Slot>::is_always_lock_free, "needed in signal handlers");

    int reconnect_and_send(Slot seen, std::span<const std::byte> record, int fd);
    int reconnect(Slot seen, Slot& out);
    Slot replace(Slot old, int fresh, std::uint32_t cookie);
    bool is_ours(Slot slot) const;

    Target target_;
    std::atomic<Slot> current_;
    std::atomic<Slot> next_; ///< what current_ is about to become, in the same number
    std::atomic<bool> reconnecting_{false};
};

} // namespace egress
