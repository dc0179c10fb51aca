#include "daemon/egress/look_up.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <iostream>
#include <map>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/address.h"
#include "daemon/base/number.h"
#include "daemon/base/rights.h"
#include "lib/fd.h"

namespace egress {

namespace {

using Time = std::chrono::steady_clock::time_point;
using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t header = 12;
constexpr std::size_t most_message = 65535;
constexpr std::uint8_t truncated = 0x02; // in the third byte of a message
constexpr std::uint8_t response = 0x80;
constexpr std::uint8_t server_failed = 2; // codes in the fourth byte
constexpr std::uint8_t server_refuses = 5;

/// Of a name or a question; the worst of both questions counts.
enum class Outcome : std::uint8_t { answered, silent, refused };
constexpr std::array<const char*, 3> outcome_names = {"answered", "silent", "refused"};

Time now() {
    return std::chrono::steady_clock::now();
}

void append_two(Bytes& out, std::uint16_t value) {
    out.push_back(static_cast<std::uint8_t>(value >> 8));
    out.push_back(static_cast<std::uint8_t>(value & 0xff));
}

/// A question of RFC 1035 with the size that an answer over UDP may have (RFC 6891).
Bytes message_of(const std::string& name, std::uint16_t type) {
    constexpr std::uint16_t answer_size = 1232;
    Bytes out;
    append_two(out, static_cast<std::uint16_t>(std::random_device()())); // the id
    for (const std::uint16_t word : {0x0100, 1, 0, 0, 1}) { // recursion, one question, one OPT
        append_two(out, word);
    }
    std::istringstream labels(name);
    for (std::string label; std::getline(labels, label, '.');) {
        out.push_back(static_cast<std::uint8_t>(label.size()));
        out.insert(out.end(), label.begin(), label.end());
    }
    out.push_back(0);
    append_two(out, type);
    append_two(out, 1);
    out.push_back(0);
    for (const std::uint16_t word :
         {std::uint16_t{41}, answer_size, std::uint16_t{0}, std::uint16_t{0}, std::uint16_t{0}}) {
        append_two(out, word);
    }
    return out;
}

Fd connected(const Endpoint& to, int type) {
    Fd fd(socket(to.address.family(), type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in v4{};
    sockaddr_in6 v6{};
    v4.sin_family = AF_INET;
    v6.sin6_family = AF_INET6;
    v4.sin_port = v6.sin6_port = htons(to.port);
    const auto bytes = to.address.bytes();
    std::ranges::copy(bytes, to.address.is_v4() ? reinterpret_cast<std::uint8_t*>(&v4.sin_addr)
                                                : v6.sin6_addr.s6_addr);
    const auto* const at = to.address.is_v4() ? reinterpret_cast<const sockaddr*>(&v4)
                                              : reinterpret_cast<const sockaddr*>(&v6);
    const socklen_t size = to.address.is_v4() ? sizeof v4 : sizeof v6;
    if (fd && connect(fd.get(), at, size) != 0 && errno != EINPROGRESS) {
        const int code = errno;
        fd.reset();
        errno = code;
    }
    return fd;
}

/// One question on its way, over one resolver after the other.
class Asking {
  public:
    Asking(const std::string& name, std::uint16_t type, const std::vector<Endpoint>& resolvers)
        : name_(name), message_(message_of(name, type)), resolvers_(&resolvers) {
        next();
    }

    const std::string& name() const { return name_; }
    bool done() const { return done_; }
    Outcome outcome() const { return outcome_; }
    Time until() const { return until_; }
    pollfd polled() const { return {fd_.get(), static_cast<short>(unsent_ ? POLLOUT : POLLIN), 0}; }
    /// The socket is ready.
    void go_on() {
        if (unsent_) {
            send_stream();
        } else if (over_stream_) {
            read_stream();
        } else {
            read_datagram();
        }
    }
    /// Asks the next resolver, or gives up.
    void next() {
        over_stream_ = unsent_ = false;
        while (tries_ < std::min(LookUpLimits::tries, 2 * resolvers_->size())) {
            at_ = (*resolvers_)[tries_++ % resolvers_->size()];
            fd_ = connected(at_, SOCK_DGRAM);
            if (fd_ && send(fd_.get(), message_.data(), message_.size(), MSG_NOSIGNAL) >= 0) {
                until_ = now() + LookUpLimits::datagram;
                return;
            }
            // By a line that denies or rejects; there may be no service, too.
            refused_ = refused_ || errno == EPERM || errno == ECONNREFUSED;
        }
        finish(refused_ ? Outcome::refused : Outcome::silent);
    }

  private:
    void finish(Outcome outcome) {
        outcome_ = outcome;
        done_ = true;
        fd_.reset();
    }

    bool is_mine(std::span<const std::uint8_t> answer) const {
        return answer.size() >= header && answer[0] == message_[0] && answer[1] == message_[1] &&
               (answer[2] & response) != 0;
    }

    void take(std::span<const std::uint8_t> answer) {
        const auto code = answer[3] & 0x0f;
        if (code == server_failed || code == server_refuses) {
            next();
        } else if ((answer[2] & truncated) != 0 && !over_stream_) {
            begin_stream();
        } else {
            finish(Outcome::answered);
        }
    }

    void read_datagram() {
        std::array<std::uint8_t, most_message> buffer; // NOLINT: it is filled by recv()
        const auto got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0 && errno != EAGAIN) {
            next(); // ECONNREFUSED: there is no service
        } else if (got > 0) {
            const auto answer = std::span(buffer).first(static_cast<std::size_t>(got));
            if (is_mine(answer)) {
                take(answer);
            }
        }
    }

    void begin_stream() {
        fd_ = connected(at_, SOCK_STREAM);
        if (!fd_) {
            next();
            return;
        }
        over_stream_ = unsent_ = true;
        in_.clear();
        until_ = now() + LookUpLimits::stream;
    }

    void send_stream() {
        Bytes out;
        append_two(out, static_cast<std::uint16_t>(message_.size()));
        out.insert(out.end(), message_.begin(), message_.end());
        // A new connection takes so little at once.
        if (send(fd_.get(), out.data(), out.size(), MSG_NOSIGNAL) !=
            static_cast<ssize_t>(out.size())) {
            next();
            return;
        }
        unsent_ = false;
    }

    void read_stream() {
        std::array<std::uint8_t, 16384> buffer; // NOLINT: it is filled by recv()
        const auto got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            next();
            return;
        }
        in_.insert(in_.end(), buffer.begin(), buffer.begin() + std::max<ssize_t>(got, 0));
        if (in_.size() >= 2 && in_.size() - 2 >= (std::size_t{in_[0]} << 8 | in_[1])) {
            const auto answer = std::span<const std::uint8_t>(in_).subspan(2);
            if (is_mine(answer)) {
                take(answer);
            } else {
                next();
            }
        }
    }

    std::string name_;
    Bytes message_;
    const std::vector<Endpoint>* resolvers_;
    std::size_t tries_ = 0;
    Endpoint at_;
    Fd fd_;
    Bytes in_;
    Time until_;
    bool over_stream_ = false;
    bool unsent_ = false;  ///< over a stream
    bool refused_ = false; ///< some try
    bool done_ = false;
    Outcome outcome_ = Outcome::silent;
};

struct Order {
    std::vector<Endpoint> resolvers;
    std::vector<std::string> names;
};

Order read_order() {
    Order out;
    for (std::string line; std::getline(std::cin, line) && line != "go";) {
        std::istringstream words(line);
        std::string key;
        std::string value;
        std::string port;
        words >> key >> value >> port;
        if (key == "name" && !value.empty()) {
            out.names.push_back(value);
        }
        const auto address = key == "resolver" ? Address::parse(value) : std::nullopt;
        const auto number = parse_decimal<std::uint16_t>(port);
        if (address && number) {
            out.resolvers.push_back({*address, *number});
        }
    }
    return out;
}

/// What became of each name, told when both of its questions are done.
class Results {
  public:
    void take(const std::string& name, Outcome outcome) {
        auto& [count, worst] = names_[name];
        worst = std::max(worst, outcome);
        if (++count == 2) {
            std::cout << outcome_names[static_cast<std::size_t>(worst)] << ' ' << name << '\n'
                      << std::flush;
        }
    }

  private:
    std::map<std::string, std::pair<int, Outcome>> names_;
};

void wait_for_some(std::vector<Asking>& asking) {
    std::vector<pollfd> polled;
    auto first = now() + LookUpLimits::stream;
    for (const auto& each : asking) {
        polled.push_back(each.polled());
        first = std::min(first, each.until());
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(first - now()).count();
    poll(polled.data(), polled.size(), static_cast<int>(std::max<std::int64_t>(left, 0)) + 1);
    for (std::size_t i = 0; i < asking.size(); ++i) {
        if (polled[i].revents != 0) {
            asking[i].go_on();
        } else if (now() >= asking[i].until()) {
            asking[i].next();
        }
    }
}

void ask_all(const Order& order) {
    constexpr std::array<std::uint16_t, 2> types = {1, 28}; // A, AAAA
    Results results;
    std::vector<Asking> asking;
    const auto end = now() + LookUpLimits::all;
    const std::size_t all = order.names.size() * types.size();
    for (std::size_t next = 0; (next < all || !asking.empty()) && now() < end;) {
        while (next < all && asking.size() < LookUpLimits::at_once) {
            asking.emplace_back(order.names[next / types.size()], types[next % types.size()],
                                order.resolvers);
            ++next;
        }
        if (std::ranges::none_of(asking, &Asking::done)) {
            wait_for_some(asking);
        }
        for (const auto& each : asking) {
            if (each.done()) {
                results.take(each.name(), each.outcome());
            }
        }
        std::erase_if(asking, [](const Asking& each) { return each.done(); });
    }
}

} // namespace

int look_up() {
    give_up_rights();
    alarm(static_cast<unsigned>(2 * LookUpLimits::all.count())); // whatever happens, it ends
    const Order order = read_order();
    if (!order.resolvers.empty()) {
        ask_all(order);
    }
    return 0;
}

} // namespace egress
