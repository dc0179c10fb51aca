// The words of the helper's line protocol, as egressd writes and reads them (egress-helper(7)).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "daemon/base/number.h"
#include "daemon/base/protocol.h"
#include "daemon/count/element.h"

namespace egress::lines {

inline constexpr std::string_view hello = "HELLO egress-helper ";
inline constexpr unsigned newest_version = 2; ///< has `exempt`, and "0 changed" unasked

/// Takes the first word off the front; empty at the end.
inline std::string_view word(std::string_view& rest) {
    const auto end = rest.find(' ');
    const auto first = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    return first;
}

/// "PROTO ADDR MASKLEN PORT".
inline std::string where(const Element& element) {
    return fmt::format("{} {} {} {}", protocol_name(element.protocol, "*"),
                       element.address.base.text(), element.address.length,
                       element.port == 0 ? "*" : std::to_string(element.port));
}

/// "SECONDS ACTION".
inline std::string how(const Element& element) {
    return fmt::format("{} {}", element.seconds == forever ? "*" : std::to_string(element.seconds),
                       element.reject ? "reject" : "drop");
}

/// Reads "PROTO ADDR MASKLEN PORT SECONDS ACTION ..."; nullopt: the helper wrote something else.
inline std::optional<Element> element(std::string_view name, std::string_view rest) {
    Element out;
    out.name = name;
    const auto proto = word(rest);
    const auto address = Address::parse(word(rest));
    const auto length = parse_decimal<int>(word(rest));
    const auto port = word(rest);
    const auto seconds = word(rest);
    const auto action = word(rest);
    if (!address || !length || *length < 0 || *length > address->width()) {
        return std::nullopt;
    }
    out.address = Prefix::around(*address, *length);
    const auto protocol_number = proto == "*" ? std::optional<std::uint8_t>(0) : protocol_of(proto);
    const auto port_number =
        port == "*" ? std::optional<std::uint16_t>(0) : parse_decimal<std::uint16_t>(port);
    const auto time =
        seconds == "*" ? std::optional<Seconds>(forever) : parse_decimal<Seconds>(seconds);
    if (!protocol_number || !port_number || !time || *time < 0 ||
        (action != "drop" && action != "reject")) {
        return std::nullopt;
    }
    out.protocol = *protocol_number;
    out.port = *port_number;
    out.seconds = *time;
    out.reject = action == "reject";
    return out;
}

} // namespace egress::lines
