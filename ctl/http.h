// The control API's client: one HTTP exchange over the daemon's unix socket.
//
// Time and size of every exchange are bounded, so a hanging or lying peer costs seconds and
// megabytes, never more. Failures carry a text that says what to do.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "ctl/context.h"
#include "ctl/out.h"

namespace egress::ctl {

struct Request {
    std::string method = "GET";
    std::string path = "/";         ///< begins with '/'
    std::string body = {};          ///< JSON, or empty
    std::size_t limit = 16u << 20u; ///< bytes of answer that are accepted
};

struct Reply {
    unsigned status = 0; ///< HTTP status
    std::string body;
};

/// Sends the request to context.socket and returns any answer.
Outcome<Reply> exchange(const Context& context, const Request& request);

/// Receives one line of a continuing answer, without its newline; false: stop.
using OnLine = std::function<bool(std::string_view line)>;
/// The context for requests that put rules in force: egressd itself reports when that takes too
/// long. `given`: --timeout was given.
Context patient(Context context, bool given);
/// Sends the request and hands over the lines of the answer until it ends, without a time limit. A
/// refusal is a failure as from refusal().
Outcome<void> follow(const Context& context, const Request& request, const OnLine& on_line);

/// The failure for a reply of 400 or more: 4xx refuses (403: no right), 5xx: the daemon cannot do
/// it.
Failure refusal(const Reply& reply);

/// exchange(), then refusal() for anything but 2xx, then the body as JSON.
Outcome<Json> call(const Context& context, const Request& request);

} // namespace egress::ctl
