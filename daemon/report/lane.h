// A lane: the process that touches what strangers send.
//
// A report brings somebody else's descriptor, and the kernel may wait on it for as long as its
// holder likes: for a lock that he holds (getsockname), for his file server (close), for his peer
// (SO_LINGER). So the daemon never receives one. It hands the *connection* to a lane, which reads
// the messages, asks the kernel about their descriptors, closes them, and writes what it found to a
// board in shared memory. A lane holds nothing but that: neither the database nor a listening
// socket. One that does not come back is given up, at worst in state D for as long as its kernel
// wait lasts.
//
// Lane and daemon speak over a SOCK_SEQPACKET pair, one struct a message. Connections travel as
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

// Large turns, because each of them wakes both sides: that must not weigh on a one-shot report.
inline constexpr std::size_t slots = 256;       ///< messages in one turn
inline constexpr std::size_t connections = 128; ///< read in one turn

/// What the daemon sends.
struct Request {
    enum class Kind : std::uint32_t {
        read,    ///< read the connections that come along
        discard, ///< take these connections, and close them at the next message: by then the
                 ///< daemon has closed its own copies, so this close is the last one
        go,      ///< does nothing by itself
    };
    Kind kind = Kind::read;
    std::uint32_t connections = 0;
    std::array<std::uint8_t, lane::connections> most{}; ///< messages to read of each, slots in all
};

/// What a lane sends.
enum class Answer : std::uint32_t {
    hello,  ///< with a pidfd of the lane
    judged, ///< the board is complete; what came is still being closed
    free,   ///< the board is complete, everything is closed
};

/// One message: its bytes as they came, and what was found.
struct Slot {
    Finding finding;
    // One byte more than the longest record, so that "too long" shows as itself.
    std::array<std::byte, wire::max_record + 1> bytes;
};

/// What became of one connection.
struct Stretch {
    std::uint32_t first = 0; ///< slot
    std::uint32_t count = 0;
    bool ended = false; ///< the peer is gone and everything was read
    bool dry = false;   ///< nothing more was there to read
};

/// The daemon reads it after `judged` or `free`, or when it gives the lane up: then the first
/// `judged` slots are good, and connection number `done` is what the lane hangs on.
struct Board {
    std::atomic<std::uint32_t> read;   ///< messages taken out of their sockets
    std::atomic<std::uint32_t> judged; ///< of these, those with a finding
    std::atomic<std::uint32_t> done;   ///< connections that are finished
    std::array<Stretch, lane::connections> of;
    std::array<Slot, slots> slot;
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free, "shared between processes");

/// The life of a lane: serves requests until the other end of `socket` is gone. Never returns.
[[noreturn]] void serve(Fd socket, Fd board);

} // namespace egress::lane
