#include "ctl/http.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>

#include <sys/socket.h>
#include <sys/un.h>

#include "ctl/answer.h"
#include "ctl/transfer.h"
#include "lib/fd.h"

namespace egress::ctl {

namespace {

Failure unreachable(const Context& context, std::string_view why) {
    return {.status = Exit::unreachable,
            .text = fmt::format("cannot reach egressd at {}: {}", printable(context.socket), why)};
}

/// The system's reason why connect() failed, and what to do.
Failure connect_failure(const Context& context, int code) {
    const char* const reason = std::strerror(code);
    switch (code) {
    case ENOENT:
    case ECONNREFUSED: {
        auto failure = unreachable(
            context, fmt::format("{}; is it running? (systemctl status egressd)", reason));
        failure.no_daemon = true;
        return failure;
    }
    case EACCES:
    case EPERM:
        return unreachable(context,
                           fmt::format("{}; you must be root or in the group egress", reason));
    case EAGAIN:
        return unreachable(context, "its queue of connections is full; try again in a moment");
    default:
        return unreachable(context, reason);
    }
}

Failure timed_out(const Context& context) {
    return unreachable(context, fmt::format("no complete answer within {:g} seconds; it may be "
                                            "stuck (systemctl status egressd)",
                                            static_cast<double>(context.timeout_ms) / 1000));
}

Failure too_long(const Context& context, std::size_t limit) {
    return {Exit::unreachable, fmt::format("the answer from {} is longer than {} bytes; is it "
                                           "egressd that listens there?",
                                           printable(context.socket), limit)};
}

/// What an answer that is not complete says about who answers.
Failure answer_failure(const Context& context, const Answer& answer, std::size_t limit) {
    const auto at = printable(context.socket);
    switch (answer.state()) {
    case Answer::State::too_long:
        return too_long(context, limit);
    case Answer::State::wrong:
        return {Exit::unreachable,
                fmt::format("what answers at {} is not egressd's control API ({})", at,
                            printable(answer.why()))};
    default:
        return {.status = Exit::unreachable,
                .text = fmt::format("egressd at {} hung up before its answer was complete; see its "
                                    "log (journalctl -u egressd)",
                                    at),
                .cut = true};
    }
}

Outcome<void> check_socket_path(const Context& context) {
    constexpr auto room = sizeof(sockaddr_un::sun_path) - 1;
    if (context.socket.empty()) {
        return fail(Exit::usage, "the control socket's path is empty; give one with -S or "
                                 "EGRESS_CONTROL, or unset both");
    }
    if (context.socket.size() > room) {
        return fail(Exit::usage,
                    fmt::format("the control socket's path is longer than {} bytes: {}", room,
                                printable(context.socket)));
    }
    return {};
}

/// A connection that does not block.
Outcome<Fd> connect_to(const Context& context) {
    if (const auto checked = check_socket_path(context); !checked) {
        return std::unexpected(checked.error());
    }
    Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    context.socket.copy(address.sun_path, sizeof address.sun_path - 1);
    if (!fd ||
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        return std::unexpected(connect_failure(context, errno));
    }
    return fd;
}

std::string text_of(const Request& request) {
    auto text = fmt::format("{} {} HTTP/1.1\r\nHost: egressd\r\nAccept: */*\r\n", request.method,
                            request.path);
    if (!request.body.empty() || request.method == "POST") {
        text += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n",
                            request.body.size());
    }
    return text + "\r\n" + request.body;
}

/// Sends the request and has `answer` read what comes; whether it came to an end.
Outcome<void> ask(const Context& context, const Request& request, Answer& answer,
                  std::optional<std::chrono::milliseconds> limit) {
    const auto fd = connect_to(context);
    if (!fd) {
        return std::unexpected(fd.error());
    }
    if (transfer(fd->get(), text_of(request), answer, limit) == Transfer::timeout) {
        return std::unexpected(timed_out(context));
    }
    return {};
}

/// Cuts a body into lines. A body without 200 is a refusal and is kept whole.
class Lines {
  public:
    Lines(const OnLine& on_line, std::size_t most) : on_line_(on_line), most_(most) {}

    /// false: the receiver has enough, or it is too long.
    bool take(std::string_view piece, unsigned status) {
        rest_ += piece;
        if (status == 200 && !hand_over()) {
            return false;
        }
        overflowed_ = rest_.size() > most_;
        return !overflowed_;
    }

    bool overflowed() const { return overflowed_; }
    std::string& rest() { return rest_; }

  private:
    bool hand_over() {
        std::string_view text = rest_;
        for (auto end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
            if (!on_line_(text.substr(0, end))) {
                return false;
            }
            text.remove_prefix(end + 1);
        }
        rest_.erase(0, rest_.size() - text.size());
        return true;
    }

    const OnLine& on_line_;
    std::size_t most_; ///< bytes of a line or a refusal
    std::string rest_; ///< the incomplete line, or the refusal
    bool overflowed_ = false;
};

} // namespace

Outcome<void> follow(const Context& context, const Request& request, const OnLine& on_line) {
    Lines lines(on_line, request.limit);
    Answer answer(std::nullopt,
                  [&](std::string_view piece) { return lines.take(piece, answer.status()); });
    if (const auto asked = ask(context, request, answer, std::nullopt); !asked) {
        return asked;
    }
    if (lines.overflowed()) {
        return std::unexpected(too_long(context, request.limit));
    }
    if (answer.state() == Answer::State::enough) {
        return {};
    }
    if (answer.state() != Answer::State::complete) {
        return std::unexpected(answer_failure(context, answer, request.limit));
    }
    if (answer.status() != 200) {
        return std::unexpected(refusal({answer.status(), std::move(lines.rest())}));
    }
    return {};
}

Outcome<Reply> exchange(const Context& context, const Request& request) {
    Reply reply;
    Answer answer(request.limit, [&](std::string_view piece) {
        reply.body += piece;
        return true;
    });
    const std::chrono::milliseconds limit(context.timeout_ms);
    if (const auto asked = ask(context, request, answer, limit); !asked) {
        return std::unexpected(asked.error());
    }
    if (answer.state() != Answer::State::complete) {
        return std::unexpected(answer_failure(context, answer, request.limit));
    }
    reply.status = answer.status();
    return reply;
}

Failure refusal(const Reply& reply) {
    const auto body = parse_json(reply.body);
    auto text = body ? text_at(*body, "error") : std::string{};
    if (reply.status == 401 || reply.status == 403) {
        constexpr std::string_view remedy = "you must be root or in the group egress";
        const bool said = text.find(remedy) != std::string::npos; // the daemon has said it
        text = text.empty() ? "permission denied" : text;
        return {Exit::unreachable,
                fmt::format("egressd refuses: {}{}{}", text, said ? "" : "; ", said ? "" : remedy)};
    }
    if (text.empty()) {
        text = fmt::format("HTTP status {} without a reason", reply.status);
    }
    if (reply.status >= 400 && reply.status < 500) {
        return {Exit::no, "egressd refuses: " + text};
    }
    return {Exit::unreachable,
            fmt::format("egressd cannot do it: {}; see its log (journalctl -u egressd)", text)};
}

Outcome<Json> call(const Context& context, const Request& request) {
    const auto reply = exchange(context, request);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->status < 200 || reply->status > 299) {
        return std::unexpected(refusal(*reply));
    }
    auto body = parse_json(reply->body);
    if (!body) {
        return fail(Exit::unreachable,
                    fmt::format("the answer from {} is not JSON; is it egressd that listens there?",
                                printable(context.socket)));
    }
    return std::move(*body);
}

Context patient(Context context, bool given) {
    constexpr long enough_ms = 90'000;
    context.timeout_ms = given ? context.timeout_ms : std::max(context.timeout_ms, enough_ms);
    return context;
}

} // namespace egress::ctl
