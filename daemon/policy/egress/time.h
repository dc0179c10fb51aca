// Times of a line of [egress]: windows of the week, and the instant at which it ends.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/policy/text/context.h"

namespace egress::policy {

/// "Mon-Fri+Sun/08:00-18:00", or one half of it.
std::optional<Window> parse_window(const Cell& cell, const Context& context);
std::string print_window(const Window& window);
/// Seconds since the epoch of "2026-12-01T08:00:00+01:00"; without an offset in local
/// time, without a time the beginning of the day.
std::optional<std::int64_t> parse_instant(const Cell& cell, const Context& context);
std::string print_instant(std::int64_t seconds); ///< in UTC

} // namespace egress::policy
