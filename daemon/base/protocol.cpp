#include "daemon/base/protocol.h"

#include <netinet/in.h>

#include "daemon/base/number.h"

namespace egress {

std::string protocol_name(int protocol, std::string_view any) {
    switch (protocol) {
    case 0:
        return std::string(any);
    case IPPROTO_TCP:
        return "tcp";
    case IPPROTO_UDP:
        return "udp";
    default:
        return std::to_string(protocol);
    }
}

std::optional<std::uint8_t> protocol_of(std::string_view text) {
    return text == "tcp"   ? std::optional<std::uint8_t>(IPPROTO_TCP)
           : text == "udp" ? std::optional<std::uint8_t>(IPPROTO_UDP)
                           : parse_decimal<std::uint8_t>(text);
}

} // namespace egress
