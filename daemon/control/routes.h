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
};

/// All routes.
std::span<const Route> routes();
/// Answers one request, now or when its effect is durable. An unknown path gets 404, a method that
/// the path does not accept 405, bad input another 4xx.
void serve(Parts& parts, const Request& request, const Answer& answer);

} // namespace egress
