#include "daemon/control/reply.h"

#include "daemon/base/json_text.h"

namespace egress::reply {

using nlohmann::json;

Response good(const json& value, unsigned status) {
    return {status, json_text(value) + "\n"};
}

Response error(unsigned status, std::string_view text) {
    return good({{"error", text}}, status);
}

unsigned status_of(Answered answered, unsigned busy) {
    switch (answered) {
    case Answered::yes:
        return 200;
    case Answered::wrong:
        return 400;
    case Answered::no_process:
        return 404;
    case Answered::not_in_force:
        return 409;
    case Answered::busy:
        return busy;
    case Answered::failed:
        break;
    }
    return 500;
}

Result<json> body_of(const Request& request) {
    json value = json::parse(request.body, nullptr, false);
    if (!value.is_object()) {
        return fail("the body is not a JSON object");
    }
    return value;
}

} // namespace egress::reply
