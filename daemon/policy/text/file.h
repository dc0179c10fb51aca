// Rules files as the system has them: opened without waiting, bounded, and not everybody's to
// write.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "daemon/policy/text/diagnostics.h"

namespace egress::policy {

struct FileProblem {
    std::string what;
    std::string hint;
};

/// The whole text. Refused: what is not a regular file (a FIFO would stop the daemon), what any
/// user may write (it would decide who gets blocked), what is larger than max_text.
std::expected<std::string, FileProblem> read_rules_file(const std::string& path);

/// Paths of the *.conf in `directory`, sorted by the bytes of their names; hidden ones are left
/// out. Nothing where it does not exist or is "".
std::vector<std::string> list_directory(const std::string& directory, Diagnostics& out);

} // namespace egress::policy
