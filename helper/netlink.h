// One netlink socket: requests, replies, and errors that a person understands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include <libmnl/libmnl.h>

#include "daemon/base/result.h"

namespace egress::helper {

/// What a person can do about an errno of the kernel's netfilter or socket diagnostics.
Error kernel_error(std::string_view what, int code);

class Netlink {
  public:
    /// `bus` is NETLINK_*.
    static Result<Netlink> open(int bus);

    /// A number that no earlier request of this socket has.
    std::uint32_t next_sequence() { return ++sequence_; }
    /// Numbers up to this one are in use.
    void used_sequence(std::uint32_t last) { sequence_ = last; }

    /// One datagram, however large: the socket's buffer grows with it as far as the kernel lets it.
    Result<> send(const void* data, std::size_t size);

    /// Bytes of the next datagram, valid until the next call; `flags` as of recv().
    Result<std::span<const char>> receive(int flags);

    /// Sends the request (header by the caller, sequence by us) and gives each reply to `take`.
    /// A dump that a change disturbed is asked anew after `restart`, so that what was taken since
    /// the last restart is one consistent view. Returns false where changes never ceased: then the
    /// view is what the last attempt saw, and something may be missing or be there twice. The
    /// kernel's error keeps its errno as code.
    Result<bool> ask(nlmsghdr* request, const std::function<void()>& restart,
                     const std::function<void(const nlmsghdr*)>& take);

  private:
    struct Closer {
        void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
    };
    using Take = std::function<void(const nlmsghdr*)>;

    explicit Netlink(mnl_socket* socket);
    Result<> ask_once(nlmsghdr* request, const Take& take);

    std::unique_ptr<mnl_socket, Closer> socket_;
    std::vector<char> input_;
    std::size_t send_buffer_ = 0;
    std::uint32_t sequence_;
};

/// Calls `take` for each message of a datagram.
void for_each_message(std::span<const char> datagram,
                      const std::function<void(const nlmsghdr*)>& take);

/// The errno of an NLMSG_ERROR or NLMSG_DONE message, 0 for success.
int message_error(const nlmsghdr* message);

} // namespace egress::helper
