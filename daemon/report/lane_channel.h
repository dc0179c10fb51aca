// One end of the pair between the daemon and a process of its own: a struct a message, with
// descriptors.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "lib/fd.h"

namespace egress::lane {

/// Closes what lies there, numbers in a row with one system call, and leaves nothing.
void close_all(std::vector<Fd>& fds);

class Channel {
  public:
    static constexpr std::size_t most_fds = 128; ///< in one message

    Channel() = default;
    explicit Channel(Fd fd) : fd_(std::move(fd)) {}

    template <typename Body>
    struct Message {
        Body body;
        std::vector<Fd> fds;
    };

    /// False: the other end is gone, or its queue is full. Never waits where the socket does not.
    template <typename Body>
    bool send(const Body& body, std::span<const int> fds) const {
        static_assert(std::is_trivially_copyable_v<Body>);
        return send_bytes(std::as_bytes(std::span(&body, 1)), fds);
    }
    /// Nothing: the other end is gone, or (non-blocking) there is no message.
    template <typename Body>
    std::optional<Message<Body>> receive() const {
        static_assert(std::is_trivially_copyable_v<Body>);
        Message<Body> message{};
        if (!receive_bytes(std::as_writable_bytes(std::span(&message.body, 1)), message.fds)) {
            return std::nullopt;
        }
        return message;
    }
    /// The same, from an end that sends no descriptors. What it sends all the same the kernel
    /// drops.
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
