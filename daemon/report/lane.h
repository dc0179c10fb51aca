// A lane: the process that handles descriptors from strangers.
//
// A report carries a stranger's descriptor, and a system call on it may wait as long as its holder
// likes: for a lock that he holds (getsockname), for his file server (close), for his peer
// (SO_LINGER). So the daemon never receives one. It passes the *connection* to a lane, which reads
// the messages, queries the kernel about their descriptors, closes them, and writes its findings to
// a board in shared memory. A lane has neither the database nor a listening socket. The daemon
// gives up a lane that does not return; at worst it stays in state D until its kernel wait ends.
//
// Lane and daemon exchange one struct per message over a SOCK_SEQPACKET pair. Connections travel as
// SCM_RIGHTS; the daemon keeps its own copies.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "daemon/report/verify.h"
#include "lib/fd.h"
#include "lib/wire.h"

namespace egress::lane {

// Turns are large, because each wakes both sides; that cost must not burden one-shot reports.
inline constexpr std::size_t slots = 256;       ///< messages per turn
inline constexpr std::size_t connections = 128; ///< read per turn

/// A message of the daemon.
struct Request {
    enum class Kind : std::uint32_t {
        read,    ///< read the connections that come with the message
        discard, ///< take these connections and close them at the next message: by then the
                 ///< daemon has closed its copies, so this close is the last one
        go,      ///< no effect of its own: the message that ends a `discard`
    };
    Kind kind = Kind::read;
    std::uint32_t connections = 0;
    std::array<std::uint8_t, lane::connections>
        most{}; ///< messages to read of each; at most `slots` in total
};

/// A message of a lane.
enum class Answer : std::uint32_t {
    hello,  ///< with a pidfd of the lane
    judged, ///< the board is complete; descriptors are still being closed
    free,   ///< the board is complete, all descriptors are closed
};

/// One message: its bytes as received, and the finding.
struct Slot {
    Finding finding;
    // One byte more than the longest record, to detect a record that is too long.
    std::array<std::byte, wire::max_record + 1> bytes;
};

/// The result for one connection.
struct Stretch {
    std::uint32_t first = 0; ///< slot
    std::uint32_t count = 0;
    bool ended = false; ///< the peer is gone and all its messages are read
    bool dry = false;   ///< its queue was empty
};

/// The daemon reads it after `judged` or `free`, or when it gives the lane up: then the first
/// `judged` slots are valid, and connection number `done` blocks the lane.
struct Board {
    std::atomic<std::uint32_t> read;   ///< messages received
    std::atomic<std::uint32_t> judged; ///< received messages with a finding
    std::atomic<std::uint32_t> done;   ///< finished connections
    std::array<Stretch, lane::connections> of;
    std::array<Slot, slots> slot;
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free, "shared between processes");

/// Runs a lane: serves requests until the other end of `socket` is gone. Never returns.
[[noreturn]] void serve(Fd socket, Fd board);

} // namespace egress::lane
