// One end of the socket pair between the daemon and its child process: one struct per message, with
// descriptors.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "lib/fd.h"

namespace egress::lane {

/// Closes all and empties the vector; consecutive numbers take one system call.
void close_all(std::vector<Fd>& fds);

class Channel {
  public:
    static constexpr std::size_t most_fds = 128; ///< per message

    Channel() = default;
    explicit Channel(Fd fd) : fd_(std::move(fd)) {}

    template <typename Body>
    struct Message {
        Body body;
        std::vector<Fd> fds;
    };

    /// False: the other end is gone, or its queue is full. Never waits on a non-blocking socket.
    template <typename Body>
    bool send(const Body& body, std::span<const int> fds) const {
        static_assert(std::is_trivially_copyable_v<Body>);
        return send_bytes(std::as_bytes(std::span(&body, 1)), fds);
    }
    /// nullopt: the other end is gone, or (non-blocking) there is no message.
    template <typename Body>
    std::optional<Message<Body>> receive() const {
        static_assert(std::is_trivially_copyable_v<Body>);
        Message<Body> message{};
        if (!receive_bytes(std::as_writable_bytes(std::span(&message.body, 1)), message.fds)) {
            return std::nullopt;
        }
        return message;
    }
    /// The same without room for descriptors; the kernel drops any that come.
    template <typename Body>
    std::optional<Body> receive_plain() const {
        Body body{};
        return receive_plain_bytes(std::as_writable_bytes(std::span(&body, 1)))
                   ? std::optional(body)
                   : std::nullopt;
    }

    int fd() const { return fd_.get(); }

  private:
    bool send_bytes(std::span<const std::byte> bytes, std::span<const int> fds) const;
    bool receive_bytes(std::span<std::byte> bytes, std::vector<Fd>& fds) const;
    bool receive_plain_bytes(std::span<std::byte> bytes) const;

    Fd fd_;
};

} // namespace egress::lane
