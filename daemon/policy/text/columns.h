// Columns of one word or one number: cell -> value, or nullopt and an error.
#pragma once

#include <cstdint>
#include <optional>

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// False: an error is reported. "*" makes `out` nullopt.
bool parse_type(const Cell& cell, const Context& context, std::optional<int>& out);
std::optional<Protocol> parse_protocol(const Cell& cell, const Context& context);
/// A name that no user has is a warning: `out` becomes no_user, `absent` the name.
bool parse_owner(const Cell& cell, const Context& context, std::optional<std::uint32_t>& out,
                 std::string& absent);
/// `family` is the only family that the line matches; AF_UNSPEC: both.
std::optional<Name> parse_name(const Cell& cell, const Context& context, int family);
std::optional<Setting<std::uint32_t>> parse_nfail(const Cell& cell, const Context& context);
std::optional<Setting<Seconds>> parse_disable(const Cell& cell, const Context& context);
} // namespace egress::policy
