// Text of the rules files -> Policy, or every error that is in it.
//
// The grammar is egress.conf(5): inetd-style columns, '#' comments, '\' continues a line. Lines
// before the first section header are [local], as in blocklistd.conf. The parser
// never uses the network; users, groups, services and protocols come from local files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/sources.h"

namespace egress::policy {

/// The result of reading rules.
struct Parsed {
    Policy policy;                       ///< valid only if ok()
    std::vector<Diagnostic> diagnostics; ///< in the order of the text; at most max_diagnostics
    bool ok() const;                     ///< true: no diagnostic is an error
};

/// Parses one text; `file` is only for messages. Does not call check().
Parsed parse_text(std::string_view text, std::string_view file, const Sources& sources = {});

/// Parses `file` and then every *.conf in `directory`, sorted by name. A missing directory is
/// empty, a missing file an error. Adds check()'s warnings, and errors for lines that this version
/// cannot enforce. Lists are in egress.d beside `file`, unless `sources` names a directory.
Parsed parse_files(const std::string& file, const std::string& directory, Sources sources = {});

/// The same with `text`, which messages call `name`, instead of the content of `file`.
Parsed parse_instead(std::string_view text, const std::string& name, const std::string& file,
                     const std::string& directory, Sources sources = {});

} // namespace egress::policy
