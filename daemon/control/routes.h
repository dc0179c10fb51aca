// The routes of the control API: method and path -> verb. etc/egress-openapi.yaml describes them.
#pragma once

#include <span>
#include <string_view>

#include "daemon/control/parts.h"

namespace egress {

struct Route {
    std::string_view method; ///< a GET route also answers HEAD, unless it is a feed
    std::string_view path;
    void (*verb)(Parts& parts, const Request& request, const Answer& answer);
    bool body = false;        ///< takes one
    std::string_view query{}; ///< the names of the arguments that it takes, a space between them
};

/// All routes.
std::span<const Route> routes();
/// Answers one request, now or when its effect is durable. An unknown path gets 404, a method that
/// the path does not accept 405, an argument or a body that it does not take 400: what is ignored
/// may be a mistyped one that matters.
void serve(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress
