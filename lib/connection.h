// The connection behind a handle: many reports, any thread, signal handlers, forked children.
//
// The design avoids two dangers. The program may reuse a descriptor number that one thread closed
// before another thread writes to it: so dup3 replaces a broken connection in place, under its own
// number, and only close() frees the number. And the program may close the number behind our back:
// so the connection compares the socket's cookie (the kernel never issues one twice) before it
// writes to, replaces or closes the number. That costs one getsockopt, about a tenth of a send.
//
// No report waits: if another report (of another thread, or the one that this signal handler
// interrupted) is reconnecting, this one uses a connection of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "lib/peer.h"

namespace egress::client {

class Connection {
  public:
    /// Connects. A failure is no error: the first report tries again.
    explicit Connection(const Target& target);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    /// Sends a record with a descriptor (-1: none); reconnects if the connection is broken. Returns
    /// 0 or an errno value. Safe in signal handlers and from several threads.
    int send(std::span<const std::byte> record, int fd);

    /// Closes the descriptor. The caller must not use the connection during the call or after it.
    void close();

  private:
    /// A descriptor number and the cookie of its socket, in one atomic word.
    using Slot = std::uint64_t;
    static_assert(std::atomic<Slot>::is_always_lock_free, "needed in signal handlers");

    int reconnect_and_send(Slot seen, std::span<const std::byte> record, int fd);
    int reconnect(Slot seen, Slot& out);
    Slot replace(Slot old, int fresh, std::uint32_t cookie);
    bool is_ours(Slot slot) const;

    Target target_;
    std::atomic<Slot> current_;
    std::atomic<Slot> next_; ///< the value that current_ is about to get, with the same number
    std::atomic<bool> reconnecting_{false};
};

} // namespace egress::client
