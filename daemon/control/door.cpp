#include "daemon/control/door.h"

#include <algorithm>

#include <fmt/format.h>
#include <sys/socket.h>

#include "daemon/base/log.h"

namespace egress {

namespace {

constexpr int most_each_turn = 16;      // connections: the loop has other work
constexpr std::size_t most_turned = 32; // connections that await their close

} // namespace

std::string last_words(std::string_view status, std::string_view text) {
    const auto body = fmt::format("{{\"error\":\"{}\"}}\n", text);
    return fmt::format("HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n"
                       "Connection: close\r\n\r\n{}",
                       status, body.size(), body);
}

Result<std::unique_ptr<Door>> Door::open(sd_event* event, Fd listener, const Shares& shares,
                                         Admit admit) {
    std::unique_ptr<Door> door(new Door(shares, std::move(admit)));
    if (auto listening = door->listen(event, std::move(listener)); !listening) {
        return std::unexpected(listening.error());
    }
    return door;
}

Result<> Door::listen(sd_event* event, Fd listener) {
    auto source = watch(event, listener.get(), EPOLLIN, [this](std::uint32_t) {
        for (int i = 0; i < most_each_turn && accept_one(); ++i) {
        }
    });
    if (!source) {
        return std::unexpected(source.error());
    }
    source_ = std::move(*source);
    listener_ = std::move(listener);
    return {};
}

Result<> Door::move_to(Fd listener) {
    for (int i = 0; i < most_each_turn && accept_one(); ++i) {
    }
    return listen(sd_event_source_get_event(source_.get()), std::move(listener));
}

bool Door::accept_one() {
    Fd connection(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            sd_event_source_set_enabled(source_.get(), SD_EVENT_OFF); // until the next tick
        }
        return errno == EINTR || errno == ECONNABORTED;
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return true;
    }
    const auto room = shares_.room(peer.uid);
    if (room == Shares::Room::yes) {
        admit_(std::move(connection));
    } else {
        turn_away(std::move(connection), peer.uid, room);
    }
    return true;
}

void Door::turn_away(Fd connection, std::uint32_t uid, Shares::Room room) {
    ++turned_away_;
    const auto why =
        room == Shares::Room::user_has_share
            ? fmt::format("uid {} has {} connections already, which is the share of one user", uid,
                          shares_.limits().of_user)
            : fmt::format("all {} connections of the control socket are taken",
                          shares_.limits().most - (uid == 0 ? 0 : shares_.limits().for_root));
    log::warning("control-full", "a connection to the control socket was turned away: {}", why);
    const auto answer = last_words("503 Service Unavailable", why);
    [[maybe_unused]] const auto sent =
        send(connection.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(connection.get(), SHUT_WR);
    if (turned_.size() >= most_turned) {
        turned_.erase(turned_.begin());
    }
    turned_.push_back({std::move(connection)});
}

void Door::tick() {
    std::erase_if(turned_, [](Turned& one) { return ++one.ticks > 1; });
    sd_event_source_set_enabled(source_.get(), SD_EVENT_ON);
}

} // namespace egress
