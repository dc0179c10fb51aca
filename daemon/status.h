// The daemon's state as JSON and as metrics. Reads everything, changes nothing.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "daemon/clock.h"
#include "daemon/store/records.h"

namespace egress {

class Daemon;

/// GET /v1/status.
nlohmann::json status_json(Daemon& daemon);
/// GET /metrics, in Prometheus' text format.
std::string metrics_text(Daemon& daemon);
/// One row as the API and `egressctl dump --json` show it; what is unknown is absent.
nlohmann::ordered_json row_json(const store::Row& row);
/// "2026-11-22T12:00:00Z".
std::string iso_time(std::int64_t wall);

} // namespace egress
