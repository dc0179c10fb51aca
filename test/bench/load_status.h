// What egressd says of itself over the control socket.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace egress::bench {

/// GET /v1/status on a connection of its own; null where the daemon does not answer (yet).
nlohmann::json status(const std::string& control_socket);

} // namespace egress::bench
