#include "helper/counters.h"

#include <cstdlib>

namespace egress::helper {

bool counts_packets(std::string_view name, const char* names) {
    std::string_view rest = names == nullptr ? "" : names;
    while (!rest.empty()) {
        const auto end = rest.find(',');
        const auto one = rest.substr(0, end);
        if (one == "*" || one == name) {
            return true;
        }
        rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    }
    return false;
}

bool counts_packets(std::string_view name) {
    static const char* const names = std::getenv("EGRESS_COUNTERS");
    return counts_packets(name, names);
}

} // namespace egress::helper
