// Rows as JSON: what the control API and `egressctl dump --json` both show.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "daemon/store/records.h"

namespace egress::store {

/// Keys in the documented order; what is not known is absent. The texts are as they were stored:
/// dump() them with a handler that replaces what is not UTF-8.
nlohmann::ordered_json row_json(const Row& row);

/// counting, blocked, wanted (the firewall has not confirmed it), monitored (judged under -m, in
/// force nowhere) or releasing.
std::string_view state_name(const Row& row);

/// Wall-clock seconds as "2026-11-22T12:00:00Z"; "-" for what no calendar holds.
std::string iso_time(std::int64_t seconds);

} // namespace egress::store
