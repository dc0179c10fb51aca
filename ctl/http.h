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
    std::size_t limit = 16u << 20u; ///< bytes of answer that are taken
};

struct Reply {
    long status = 0; ///< HTTP status
    std::string body;
};

/// Sends the request to context.socket and gives whatever was answered.
Outcome<Reply> exchange(const Context& context, const Request& request);

/// Takes one line of an answer that goes on, without its end; false: it is enough.
using OnLine = std::function<bool(std::string_view line)>;
/// The same context for what puts rules in force: egressd says itself when that takes too long.
/// `given`: --timeout was.
Context patient(Context context, bool given);
/// Sends the request and hands over the lines of the answer until it ends, as long as that takes.
/// A refusal is a failure as of refusal().
Outcome<void> follow(const Context& context, const Request& request, const OnLine& on_line);

/// What a reply of 400 or more means: 4xx is a no (403: no right), 5xx a daemon that cannot.
Failure refusal(const Reply& reply);

/// exchange(), then refusal() for anything but 2xx, then the body as JSON.
Outcome<Json> call(const Context& context, const Request& request);

} // namespace egress::ctl
