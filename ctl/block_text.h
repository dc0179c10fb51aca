// Rows of the control API as text for people.
#pragma once

#include <string>

#include "ctl/out.h"

namespace egress::ctl {

/// "192.0.2.0/24 port 22 tcp in egress"
std::string block_text(const Json& row);
/// "until 2026-11-22T12:00:00Z" or "for ever".
std::string until_text(const Json& row);
/// The failures at which the rule blocks; "*": never.
std::string limit_text(const Json& row);

} // namespace egress::ctl
