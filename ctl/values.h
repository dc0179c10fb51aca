// Operands and option values of the command line: text -> checked values, or a usage failure that
// names the wrong word. Refuses what the daemon would refuse, with a better hint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "ctl/context.h"
#include "daemon/base/address.h"
#include "daemon/base/clock.h"

namespace egress::ctl {

/// ADDR[/LEN][:PORT], [V6][/LEN][:PORT], or what dump prints: V6/LEN:PORT, with "*" for any port.
struct Target {
    Prefix prefix;
    std::optional<std::uint16_t> port; ///< host byte order; nullopt: every port
    std::string text() const;          ///< in the form that parse_target() reads
};

Outcome<Target> parse_target(std::string_view text);
/// "90", "10m", "1h30m", "2w"; "*" is `forever`. Never 0.
Outcome<Seconds> parse_time(std::string_view text);
/// The name of a rule: [A-Za-z0-9][A-Za-z0-9._-]{0,62}.
Outcome<std::string> parse_name(std::string_view text);
/// Up to 256 bytes of printable UTF-8.
Outcome<std::string> parse_reason(std::string_view text);
struct User {
    std::uint32_t uid = 0;
    std::optional<std::uint32_t> gid; ///< primary group; nullopt: unknown user
};
/// A user's name or number.
Outcome<User> parse_user(std::string_view text);
/// A group's name or number.
Outcome<std::uint32_t> parse_group(std::string_view text);
/// A protocol's name or number, in the API's form: "tcp", "udp", "132"; "" for "*".
Outcome<std::string> parse_protocol(std::string_view text);
/// Whole or decimal seconds, more than 0 and at most a day, in milliseconds.
Outcome<long> parse_timeout(std::string_view text);

} // namespace egress::ctl
