// Rows as JSON, for the control API and `egressctl dump --json`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "daemon/store/event_row.h"
#include "daemon/store/records.h"

namespace egress::store {

/// Keys in the documented order, without unknown ones. The texts are as stored: dump() them with a
/// handler that replaces invalid UTF-8.
nlohmann::ordered_json row_json(const Row& row);

/// The same of what the hooks saw.
nlohmann::ordered_json event_json(const EventRow& row);

/// counting, blocked, wanted (the firewall has not confirmed it), monitored (judged under -m, never
/// in force) or releasing.
std::string_view state_name(const Row& row);

/// Wall-clock seconds as "2026-11-22T12:00:00Z"; "-": out of the calendar's range.
std::string iso_time(std::int64_t seconds);

} // namespace egress::store
