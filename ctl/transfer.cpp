#include "ctl/transfer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

#include <poll.h>
#include <sys/socket.h>

namespace egress::ctl {

namespace {

using Steady = std::chrono::steady_clock;

bool again(int code) {
    return code == EAGAIN || code == EWOULDBLOCK || code == EINTR;
}

/// Sends what the socket takes and shortens the request by it.
void send_some(int fd, std::string_view& request) {
    const auto sent = ::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
        request.remove_prefix(static_cast<std::size_t>(sent));
    } else if (!again(errno)) {
        request = {}; // the peer reads no more; it may have answered already
    }
}

void receive_some(int fd, Answer& answer) {
    std::array<char, 65536> buffer;
    const auto got = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (got > 0) {
        answer.take({buffer.data(), static_cast<std::size_t>(got)});
    } else if (got == 0 || !again(errno)) {
        answer.end();
    }
}

/// For poll(): -1 without a limit, 0 when the time is over.
int left_ms(std::optional<Steady::time_point> until) {
    if (!until) {
        return -1;
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - Steady::now()).count();
    return static_cast<int>(std::clamp<decltype(left)>(left, 0, std::numeric_limits<int>::max()));
}

} // namespace

Transfer transfer(int fd, std::string_view request, Answer& answer,
                  std::optional<std::chrono::milliseconds> limit) {
    const auto until = limit ? std::optional(Steady::now() + *limit) : std::nullopt;
    while (answer.state() == Answer::State::more) {
        const int wait_ms = left_ms(until);
        if (wait_ms == 0) { // whatever may still come: a peer that drips does not hold us
            return Transfer::timeout;
        }
        pollfd waiting{fd, static_cast<short>(POLLIN | (request.empty() ? 0 : POLLOUT)), 0};
        const int ready = ::poll(&waiting, 1, wait_ms);
        if (ready < 0 && !again(errno)) {
            answer.end();
        }
        if (ready <= 0) {
            continue;
        }
        if ((waiting.revents & POLLOUT) != 0) {
            send_some(fd, request);
        }
        if ((waiting.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
            receive_some(fd, answer);
        }
    }
    return Transfer::ended;
}

} // namespace egress::ctl
