// The daemon's state as JSON and as metrics. Only reads.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "daemon/control/parts.h"

namespace egress {

/// GET /v1/status.
nlohmann::json status_json(const Parts& parts);
/// GET /metrics, in Prometheus' text format.
std::string metrics_text(const Parts& parts);

namespace verbs {

void show_status(Parts& parts, const Request& request, const Answer& answer);
void show_metrics(Parts& parts, const Request& request, const Answer& answer);

} // namespace verbs
} // namespace egress
