// The firewall as a bystander sees it, and one element added with nothing in between.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include <libmnl/libmnl.h>

namespace egress::bench {

struct CloseSocket {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
};
using Netlink = std::unique_ptr<mnl_socket, CloseSocket>;

/// Hears of every set element that becomes valid in this network namespace. The kernel tells its
/// listeners after the commit, so what is measured with it is never too short.
class Listener {
  public:
    Listener();
    /// Waits up to `timeout` for one datagram of news and calls `visit` with each new element's
    /// IPv4 address (network byte order). False: no news.
    bool receive(std::chrono::milliseconds timeout,
                 const std::function<void(std::uint32_t)>& visit);

  private:
    Netlink socket_;
};

/// Adds (address . udp . 53, one hour) to set "s" of table "inet floor" in one transaction and
/// waits for the kernel's answer.
class RawAdder {
  public:
    RawAdder();
    void add(std::uint32_t address);

  private:
    Netlink socket_;
    std::uint32_t sequence_ = 1;
};

} // namespace egress::bench
