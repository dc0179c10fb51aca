#include "helper/netlink.h"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace egress::helper {

namespace {

constexpr std::size_t input_size = 64 * 1024;
constexpr int receive_buffer = 8 * 1024 * 1024; ///< has room for an error per message of 10,000
constexpr std::size_t largest_send = 1U << 30;  ///< the kernel's maximum for SO_SNDBUFFORCE
constexpr int answer_seconds = 10; ///< the kernel answers within the call; guards against its bugs
constexpr int dump_attempts = 4;   ///< every commit disturbs, and on some hosts they never cease

} // namespace

Error kernel_error(std::string_view what, int code) {
    const char* hint = "";
    switch (code) {
    case EPERM:
    case EACCES:
        hint = " (needs CAP_NET_ADMIN)";
        break;
    case EEXIST:
    case EBUSY:
    case EINVAL:
        hint = " (something of that name in table inet egress was made by another program: "
               "delete it)";
        break;
    case ENFILE:
        hint = " (the set is full)";
        break;
    case EOPNOTSUPP:
    case EPROTONOSUPPORT:
    case EAFNOSUPPORT:
        hint = " (the kernel was built without it)";
        break;
    case ENOMEM:
    case ENOBUFS:
        hint = " (the kernel is short of memory)";
        break;
    default:
        break;
    }
    return Error{fmt::format("{}: {}{}", what, std::strerror(code), hint), code};
}

void for_each_message(std::span<const char> datagram,
                      const std::function<void(const nlmsghdr*)>& take) {
    int left = static_cast<int>(datagram.size());
    const auto* message = reinterpret_cast<const nlmsghdr*>(datagram.data());
    for (; mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
        take(message);
    }
}

int message_error(const nlmsghdr* message) {
    // The payload of NLMSG_ERROR begins with the errno, too; NLMSG_DONE may have none.
    int code = 0;
    if (mnl_nlmsg_get_payload_len(message) >= sizeof code) {
        std::memcpy(&code, mnl_nlmsg_get_payload(message), sizeof code);
    }
    return code < 0 ? -code : 0;
}

Netlink::Netlink(mnl_socket* socket)
    : socket_(socket), input_(input_size),
      sequence_(static_cast<std::uint32_t>(std::time(nullptr))) {}

Result<Netlink> Netlink::open(int bus) {
    mnl_socket* const socket = mnl_socket_open2(bus, SOCK_CLOEXEC);
    if (socket == nullptr) {
        return std::unexpected(kernel_error("cannot open a netlink socket", errno));
    }
    Netlink netlink(socket);
    if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) {
        return std::unexpected(kernel_error("cannot bind a netlink socket", errno));
    }
    const int fd = mnl_socket_get_fd(socket);
    const int on = 1;
    const timeval timeout{answer_seconds, 0};
    // Best effort: without them there is less room, or errors contain the whole message.
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof receive_buffer);
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    return netlink;
}

Result<> Netlink::join(int group) {
    if (mnl_socket_setsockopt(socket_.get(), NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0) {
        return std::unexpected(kernel_error("cannot listen to changes of the firewall", errno));
    }
    return {};
}

void Netlink::leave(int group) {
    mnl_socket_setsockopt(socket_.get(), NETLINK_DROP_MEMBERSHIP, &group, sizeof group);
}

Result<> Netlink::send(const void* data, std::size_t size) {
    if (2 * size > send_buffer_) {
        const int wanted = static_cast<int>(std::min(2 * size + 65536, largest_send));
        setsockopt(mnl_socket_get_fd(socket_.get()), SOL_SOCKET, SO_SNDBUFFORCE, &wanted,
                   sizeof wanted);
        send_buffer_ = 2 * size;
    }
    if (mnl_socket_sendto(socket_.get(), data, size) < 0) {
        return std::unexpected(kernel_error("cannot write to netlink", errno));
    }
    return {};
}

Result<std::span<const char>> Netlink::receive(int flags) {
    while (true) {
        const auto count =
            ::recv(mnl_socket_get_fd(socket_.get()), input_.data(), input_.size(), flags);
        if (count >= 0) {
            return std::span<const char>(input_).first(static_cast<std::size_t>(count));
        }
        if (errno != EINTR) {
            return std::unexpected(kernel_error("cannot read from netlink", errno));
        }
    }
}

Result<bool> Netlink::ask(nlmsghdr* request, const std::function<void()>& restart,
                          const Take& take) {
    for (int attempt = 1;; ++attempt) {
        restart();
        const auto asked = ask_once(request, take);
        if (asked) {
            return true;
        }
        const int code = asked.error().code;
        if (code == EINTR && attempt >= dump_attempts) {
            return false;
        }
        if ((code != EINTR && code != ENOBUFS) || attempt >= dump_attempts) {
            return std::unexpected(asked.error());
        }
    }
}

/// One attempt; EINTR: the view is inconsistent. Always reads a reply to its end.
Result<> Netlink::ask_once(nlmsghdr* request, const Take& take) {
    request->nlmsg_seq = next_sequence();
    if (auto sent = send(request, request->nlmsg_len); !sent) {
        return sent;
    }
    const bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    bool disturbed = false;
    bool done = false;
    int code = 0;
    while (!done) {
        const auto datagram = receive(0);
        if (!datagram) {
            return std::unexpected(datagram.error());
        }
        for_each_message(*datagram, [&](const nlmsghdr* message) {
            if (message->nlmsg_seq != request->nlmsg_seq || done) {
                return; // a late answer to an earlier request
            }
            disturbed = disturbed || (message->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
                code = message_error(message);
                done = true;
            } else {
                take(message);
                done = !dump;
            }
        });
    }
    if (code != 0) {
        return std::unexpected(kernel_error("the kernel refused a question", code));
    }
    return disturbed ? fail("disturbed", EINTR) : Result<>{};
}

} // namespace egress::helper
