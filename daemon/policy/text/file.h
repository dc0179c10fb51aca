// Reads rules files without waiting; bounds their size and refuses those that any user may write.
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

/// The whole text. Refuses files that are not regular (a FIFO would stop the daemon), that any user
/// may write (that user would decide who gets blocked), or that are larger than max_text.
std::expected<std::string, FileProblem> read_rules_file(const std::string& path);

/// Paths of the *.conf in `directory` without hidden ones, sorted by the bytes of their names.
/// Empty if the directory does not exist or is "".
std::vector<std::string> list_directory(const std::string& directory, Diagnostics& out);

} // namespace egress::policy
