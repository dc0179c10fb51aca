// Answers of the control API: JSON, and errors as {"error": text}.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "daemon/base/answered.h"
#include "daemon/base/result.h"
#include "daemon/control/http.h"

namespace egress::reply {

/// The error of a change that is in force.
inline constexpr const char* not_durable =
    "done, but the database cannot be written, so it would not outlive a restart";

Response good(const nlohmann::json& value, unsigned status = 200);
Response error(unsigned status, std::string_view text);
/// The status of an answer from the kernel's side; `busy` is that of Answered::busy.
unsigned status_of(Answered answered, unsigned busy);
/// Parses a request's body, which must be a JSON object.
Result<nlohmann::json> body_of(const Request& request);

} // namespace egress::reply
