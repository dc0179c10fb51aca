// JSON as text, whatever is in it.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace egress {

/// On one line. What is not UTF-8 is replaced: it may come from a process, a helper, a database.
template <typename Json>
std::string json_text(const Json& value, bool ascii = false) {
    return value.dump(-1, ' ', ascii, Json::error_handler_t::replace);
}

} // namespace egress
