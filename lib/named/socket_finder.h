// Finds the descriptor of this process that has the given addresses.
//
// BIND's plugins see addresses only; its network manager keeps the descriptors private. So the
// finder queries the descriptors one by one, about 0.1 microseconds each, and tries the last result
// for these addresses first. A search is bounded. Too many searches in vain (the client has hung
// up) make the following ones short, because an attacker can cause them at will.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include <sys/socket.h>

namespace egress {

/// Any number of threads may search at once. The finder does not own the descriptors. Another
/// thread may close and reuse one before the caller sends it: so egressd checks it again with the
/// kernel.
class SocketFinder {
  public:
    /// The connected stream socket between these addresses; -1: none.
    int stream(const sockaddr* remote, const sockaddr* local);

    /// The datagram socket bound to this address or, without one, to its port on all addresses of
    /// its family; -1: none.
    int datagram(const sockaddr* local);

  private:
    static constexpr std::size_t slots = 64;
    static constexpr int long_search = 4096; ///< descriptors per search
    static constexpr int short_search = 256; ///< the same, after too many searches in vain
    static constexpr unsigned vain_a_second = 100;

    template <typename Fits>
    int search(std::atomic<int>& remembered, Fits fits);
    int descriptors_max();
    void count_vain();

    /// Descriptor + 1 by address hash; 0: none.
    std::array<std::atomic<int>, slots> remembered_{};
    std::atomic<int> last_{0};           ///< the last result: new descriptors are near it
    std::atomic<std::uint64_t> vain_{0}; ///< high half: a second; low half: its searches in vain
};

} // namespace egress
