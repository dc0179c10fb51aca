#include "daemon/control/reply.h"

namespace egress::reply {

using nlohmann::json;

std::string json_text(const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string json_text(const nlohmann::ordered_json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

Response good(const json& value, unsigned status) {
    return {status, json_text(value) + "\n"};
}

Response error(unsigned status, std::string_view text) {
    return good({{"error", text}}, status);
}

Result<json> body_of(const Request& request) {
    json value = json::parse(request.body, nullptr, false);
    if (!value.is_object()) {
        return fail("the body is not a JSON object");
    }
    return value;
}

} // namespace egress::reply
