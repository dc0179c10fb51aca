// Remote peers without traffic: UDP sockets that are connected to addresses of 127.0.0.0/8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lib/fd.h"

namespace egress::bench {

/// Address number `index`, in network byte order: 127.1.0.0 and up.
std::uint32_t address_of(std::uint32_t index);
/// The other way round.
std::uint32_t index_of(std::uint32_t address);

/// Sockets of one UDP service on 127.0.0.1, taken in turn.
///
/// A report carries the socket itself, not a copy: its peer may change only when the daemon has
/// read the report. There are more sockets than any queue on the way holds, so the one whose turn
/// it is has been read.
class Peers {
  public:
    /// Ends the program with the reason where the sockets cannot be made.
    Peers(std::uint16_t port, std::size_t sockets);

    /// A socket whose peer is address number `index`.
    int at(std::uint32_t index);

  private:
    std::vector<Fd> sockets_;
    std::size_t next_ = 0;
};

/// The same as accepted TCP connections, whose peers cannot be changed: address number 0, 1, ...
class Connections {
  public:
    Connections(std::uint16_t port, std::size_t connections);
    int next() { return servers_[next_++ % servers_.size()].get(); }

  private:
    std::vector<Fd> clients_;
    std::vector<Fd> servers_;
    std::size_t next_ = 0;
};

} // namespace egress::bench
