// The daemon's state as JSON and as metrics. Reads everything, changes nothing.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace egress {

class Daemon;

/// GET /v1/status.
nlohmann::json status_json(Daemon& daemon);
/// GET /metrics, in Prometheus' text format.
std::string metrics_text(Daemon& daemon);

} // namespace egress
