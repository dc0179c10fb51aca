// JSON as text, with any content.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace egress {

/// Writes one line. Replaces invalid UTF-8, which may come from a process, a helper or a database.
template <typename Json>
std::string json_text(const Json& value, bool ascii = false) {
    return value.dump(-1, ' ', ascii, Json::error_handler_t::replace);
}

} // namespace egress
