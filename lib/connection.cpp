#include "lib/connection.h"

#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace egress::client {
namespace {

// Low half: the low half of the socket's cookie. High half: descriptor number and a "broken" bit.
constexpr std::uint64_t broken = std::uint64_t{1} << 63;
constexpr std::uint64_t nothing = ~std::uint64_t{0};

constexpr int number(std::uint64_t slot) {
    return static_cast<int>((slot & ~broken) >> 32);
}

constexpr std::uint64_t pack(int fd, std::uint32_t cookie) {
    return static_cast<std::uint64_t>(fd) << 32 | cookie;
}

bool read_cookie(int fd, std::uint32_t& out) {
    std::uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    if (::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0) {
        return false;
    }
    out = static_cast<std::uint32_t>(cookie);
    return true;
}

/// The daemon closed the connection or is not running: a new connection may help.
bool is_broken(int error) {
    return error == EPIPE || error == ECONNRESET || error == ENOTCONN || error == ECONNREFUSED;
}

bool has_cookie(std::uint64_t slot, std::uint32_t cookie) {
    return static_cast<std::uint32_t>(slot) == cookie;
}

} // namespace

Connection::Connection(const Target& target) : target_(target), current_(nothing), next_(nothing) {
    Slot slot = nothing;
    (void)reconnect(nothing, slot);
}

/// During a replacement the number may already belong to the next socket.
bool Connection::is_ours(Slot slot) const {
    std::uint32_t cookie = 0;
    if (slot == nothing || !read_cookie(number(slot), cookie)) {
        return false;
    }
    if (has_cookie(slot, cookie)) {
        return true;
    }
    const Slot next = next_.load();
    return next != nothing && number(next) == number(slot) && has_cookie(next, cookie);
}

int Connection::send(std::span<const std::byte> record, int fd) {
    const Slot slot = current_.load();
    if ((slot & broken) == 0 && is_ours(slot)) {
        const int error = send_record(number(slot), record, fd);
        if (!is_broken(error)) {
            return error;
        }
    }
    return reconnect_and_send(slot, record, fd);
}

int Connection::reconnect_and_send(Slot seen, std::span<const std::byte> record, int fd) {
    if (reconnecting_.exchange(true)) {
        return send_once(target_, record, fd);
    }
    Slot slot = nothing;
    const int error = reconnect(seen, slot);
    reconnecting_.store(false);
    if (error == ENOPROTOOPT) {
        return send_once(target_, record, fd); // this kernel has no cookies: keep no connection
    }
    return error != 0 ? error : send_record(number(slot), record, fd);
}

/// Runs once at a time (reconnecting_); `seen` is the slot that the caller found unusable. A
/// failure keeps the number and marks it as broken, so that the next report costs one failed
/// connect and no failed send.
int Connection::reconnect(Slot seen, Slot& out) {
    const Slot old = current_.load();
    if (old != seen && (old & broken) == 0) {
        out = old; // another report has reconnected
        return 0;
    }
    int fresh = -1;
    std::uint32_t cookie = 0;
    int error = connect_to(target_, fresh);
    if (error == 0 && !read_cookie(fresh, cookie)) {
        error = ENOPROTOOPT;
        ::close(fresh);
    }
    if (error != 0) {
        current_.store(old | broken); // `nothing` has the bit already
        return error;
    }
    out = replace(old, fresh, cookie);
    return 0;
}

Connection::Slot Connection::replace(Slot old, int fresh, std::uint32_t cookie) {
    if (is_ours(old)) {
        const Slot slot = pack(number(old), cookie);
        next_.store(slot);
        if (::dup3(fresh, number(old), O_CLOEXEC) >= 0) {
            current_.store(slot);
            ::close(fresh);
            return slot;
        }
    }
    // The first connection, or the program has reused the number: leave that descriptor alone.
    const Slot slot = pack(fresh, cookie);
    next_.store(slot);
    current_.store(slot);
    return slot;
}

void Connection::close() {
    const Slot slot = current_.exchange(nothing);
    if (is_ours(slot)) {
        ::close(number(slot));
    }
}

} // namespace egress::client
