// Absolute paths in the columns of rules.
#pragma once

#include <cstddef>
#include <string_view>

#include "daemon/policy/text/context.h"

namespace egress::policy {

/// True for an absolute path without '.', '..' and "//", of at most `most` bytes. Messages call it
/// `what`.
bool check_path(const Cell& cell, const Context& context, std::string_view what, std::size_t most);

} // namespace egress::policy
