#include "daemon/policy/rules/field.h"

#include "daemon/base/log.h"

namespace egress::policy {

namespace {
constexpr std::size_t max_path = 4096;
}

std::string Place::text() const {
    std::string out = escape(file, max_path);
    for (const int number : {line, column}) {
        if (number != 0) {
            out += ":" + std::to_string(number);
        }
    }
    return out;
}

} // namespace egress::policy
