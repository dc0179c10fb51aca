// POST /v1/explain's body -> a Question.
#pragma once

#include <nlohmann/json.hpp>

#include "daemon/base/result.h"
#include "daemon/egress/explain.h"

namespace egress {

Result<Question> question_of(const nlohmann::json& body);

} // namespace egress
