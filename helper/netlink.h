// One netlink socket: requests, replies, and errors for people.
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

/// Explains an errno of the kernel's netfilter or socket diagnostics, and what to do.
Error kernel_error(std::string_view what, int code);

class Netlink {
  public:
    /// `bus` is NETLINK_*.
    static Result<Netlink> open(int bus);

    int fd() const { return mnl_socket_get_fd(socket_.get()); }
    /// The number by which the kernel names this socket.
    std::uint32_t port() const { return mnl_socket_get_portid(socket_.get()); }
    /// Receives the notifications of a group, NFNLGRP_*.
    Result<> join(int group);
    void leave(int group);

    /// A number that no earlier request of this socket used.
    std::uint32_t next_sequence() { return ++sequence_; }
    /// Marks numbers up to `last` as used.
    void used_sequence(std::uint32_t last) { sequence_ = last; }

    /// Sends one datagram of any size: enlarges the socket's buffer as far as the kernel permits.
    Result<> send(const void* data, std::size_t size);

    /// Bytes of the next datagram, valid until the next call; `flags` of recv().
    Result<std::span<const char>> receive(int flags);

    /// Sends the request (the caller sets the header, we set the sequence number) and passes each
    /// reply to `take`. If a change disturbs a dump, it calls `restart` and asks again, so that the
    /// replies since the last restart are one consistent view. False: changes never ceased, so the
    /// view is that of the last attempt, and entries may be missing or double. A kernel error keeps
    /// its errno as code.
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
