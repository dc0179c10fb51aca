#include "ctl/http.h"

#include "ctl/curl.h"

#include <algorithm>

#include <cerrno>
#include <cstring>
#include <memory>

#include <sys/un.h>

namespace egress::ctl {

namespace {

/// After open_handle() has loaded it.
const Curl& curl() {
    return *load_curl();
}

struct CurlCloser {
    void operator()(CURL* handle) const { curl().easy_cleanup(handle); }
    void operator()(curl_slist* list) const { curl().slist_free_all(list); }
};
using Handle = std::unique_ptr<CURL, CurlCloser>;
using Headers = std::unique_ptr<curl_slist, CurlCloser>;

struct Sink {
    std::string body;
    std::size_t limit;
    bool overflowed = false;
};

std::size_t take(char* data, std::size_t size, std::size_t count, void* to) {
    auto& sink = *static_cast<Sink*>(to);
    const std::size_t bytes = size * count;
    if (bytes > sink.limit - sink.body.size()) {
        sink.overflowed = true;
        return 0; // ends the transfer
    }
    sink.body.append(data, bytes);
    return bytes;
}

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

Failure transfer_failure(const Context& context, CURL* handle, CURLcode code, const Sink& sink) {
    long os_error = 0;
    curl().easy_getinfo(handle, CURLINFO_OS_ERRNO, &os_error);
    const auto at = printable(context.socket);
    switch (code) {
    case CURLE_COULDNT_CONNECT:
        return os_error != 0 ? connect_failure(context, static_cast<int>(os_error))
                             : unreachable(context, "no connection");
    case CURLE_OPERATION_TIMEDOUT:
        return unreachable(context,
                           fmt::format("no complete answer within {:g} seconds; it may be stuck "
                                       "(systemctl status egressd)",
                                       static_cast<double>(context.timeout_ms) / 1000));
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return {.status = Exit::unreachable,
                .text = fmt::format("egressd at {} hung up before its answer was complete; see its "
                                    "log (journalctl -u egressd)",
                                    at),
                .cut = true};
    default:
        break;
    }
    if (sink.overflowed || code == CURLE_FILESIZE_EXCEEDED) {
        return {Exit::unreachable,
                fmt::format("the answer from {} is longer than {} bytes; is it egressd that "
                            "listens there?",
                            at, sink.limit)};
    }
    return {Exit::unreachable, fmt::format("what answers at {} is not egressd's control API ({})",
                                           at, printable(curl().easy_strerror(code)))};
}

void prepare(CURL* handle, const Context& context, const Request& request) {
    curl().easy_setopt(handle, CURLOPT_UNIX_SOCKET_PATH, context.socket.c_str());
    curl().easy_setopt(handle, CURLOPT_URL, ("http://egressd" + request.path).c_str());
    curl().easy_setopt(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    curl().easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http");
    curl().easy_setopt(handle, CURLOPT_PROXY, ""); // ignore http_proxy: stay on the host
    curl().easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl().easy_setopt(handle, CURLOPT_TIMEOUT_MS, context.timeout_ms);
    curl().easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS, context.timeout_ms);
    curl().easy_setopt(handle, CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(request.limit));
    if (!request.body.empty()) {
        curl().easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE,
                           static_cast<curl_off_t>(request.body.size()));
        curl().easy_setopt(handle, CURLOPT_POSTFIELDS, request.body.c_str());
    } else if (request.method == "POST") {
        curl().easy_setopt(handle, CURLOPT_POSTFIELDSIZE, 0L);
        curl().easy_setopt(handle, CURLOPT_POSTFIELDS, "");
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

struct Stream {
    CURL* handle = nullptr;
    const OnLine* on_line = nullptr;
    std::size_t limit = 0; ///< bytes of a line or a refusal
    long status = 0;
    std::string rest; ///< the incomplete line, or the refusal
    bool enough = false;
    bool overflowed = false;
};

std::size_t take_lines(char* data, std::size_t size, std::size_t count, void* to) {
    auto& stream = *static_cast<Stream*>(to);
    const std::size_t bytes = size * count;
    curl().easy_getinfo(stream.handle, CURLINFO_RESPONSE_CODE, &stream.status);
    stream.rest.append(data, bytes);
    if (stream.status == 200) {
        std::string_view text = stream.rest;
        for (auto end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
            if (!(*stream.on_line)(text.substr(0, end))) {
                stream.enough = true;
                return 0;
            }
            text.remove_prefix(end + 1);
        }
        stream.rest.erase(0, stream.rest.size() - text.size());
    }
    stream.overflowed = stream.rest.size() > stream.limit;
    return stream.overflowed ? 0 : bytes;
}

/// A handle, complete except for the receiver of the answer, and the header lines, which must
/// outlive it.
Outcome<std::pair<Headers, Handle>> open_handle(const Context& context, const Request& request) {
    if (const auto checked = check_socket_path(context); !checked) {
        return std::unexpected(checked.error());
    }
    if (load_curl() == nullptr) {
        return std::unexpected(curl_failure());
    }
    Handle handle(curl().easy_init());
    // No "Expect: 100-continue": there is nothing to wait for on a local socket.
    Headers first(curl().slist_append(nullptr, "Expect:"));
    if (!handle || !first) {
        return fail(Exit::unreachable, "out of memory");
    }
    curl().slist_append(first.get(), "Content-Type: application/json");
    curl().easy_setopt(handle.get(), CURLOPT_HTTPHEADER, first.get());
    prepare(handle.get(), context, request);
    return std::pair(std::move(first), std::move(handle));
}

} // namespace

Outcome<void> follow(const Context& context, const Request& request, const OnLine& on_line) {
    const auto opened = open_handle(context, request);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    CURL* const handle = opened->second.get();
    Stream stream{handle, &on_line, request.limit, 0, {}};
    curl().easy_setopt(handle, CURLOPT_WRITEFUNCTION, &take_lines);
    curl().easy_setopt(handle, CURLOPT_WRITEDATA, &stream);
    curl().easy_setopt(handle, CURLOPT_TIMEOUT_MS, 0L);
    curl().easy_setopt(handle, CURLOPT_MAXFILESIZE_LARGE, curl_off_t{0});
    const auto code = curl().easy_perform(handle);
    if (stream.enough) {
        return {};
    }
    if (code != CURLE_OK) {
        return std::unexpected(
            transfer_failure(context, handle, code, Sink{{}, request.limit, stream.overflowed}));
    }
    if (curl().easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &stream.status); stream.status != 200) {
        return std::unexpected(refusal({stream.status, stream.rest}));
    }
    return {};
}

Outcome<Reply> exchange(const Context& context, const Request& request) {
    const auto opened = open_handle(context, request);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    CURL* const handle = opened->second.get();
    Sink sink{{}, request.limit};
    curl().easy_setopt(handle, CURLOPT_WRITEFUNCTION, &take);
    curl().easy_setopt(handle, CURLOPT_WRITEDATA, &sink);
    const auto code = curl().easy_perform(handle);
    if (code != CURLE_OK) {
        return std::unexpected(transfer_failure(context, handle, code, sink));
    }
    Reply reply{0, std::move(sink.body)};
    curl().easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &reply.status);
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
