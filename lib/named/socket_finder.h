// Which descriptor of this process has these addresses?
//
// BIND's plugins see addresses only; where its network manager keeps the descriptors is private to
// it. So the descriptors are asked one by one, which costs about 0.1 microseconds each, and what is
// found is remembered and asked first. A search is bounded, and those that find nothing (the client
// has hung up) become short ones when there are many of them: they are what an attacker can make
// us do at will.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include <sys/socket.h>

namespace egress {

/// Any number of threads may ask at once. Descriptors stay whose they are; since others close and
/// open them meanwhile, what is found may be another socket by the time it is used, and egressd
/// asks the kernel about it again.
class SocketFinder {
  public:
    /// The connected stream socket between these addresses; -1: none.
    int stream(const sockaddr* remote, const sockaddr* local);

    /// The datagram socket bound to this address or, without one, to its port on all addresses of
    /// its family; -1: none.
    int datagram(const sockaddr* local);

  private:
    static constexpr std::size_t slots = 64;
    static constexpr int long_search = 4096; ///< descriptors that are looked at
    static constexpr int short_search = 256; ///< the same, after too many long ones in vain
    static constexpr unsigned vain_a_second = 100;

    template <typename Fits>
    int search(std::atomic<int>& remembered, Fits fits);
    int looks();
    void in_vain();

    /// Descriptor + 1 by address; 0 where nothing is remembered.
    std::array<std::atomic<int>, slots> remembered_{};
    std::atomic<int> last_{0};           ///< where something was found: others are near
    std::atomic<std::uint64_t> vain_{0}; ///< the second, and how many searches were in vain in it
};

} // namespace egress
