// Text of the rules files -> Policy, or every error that is in it.
//
// The grammar is egress.conf(5): inetd-style columns, '#' comments, '\' continues a line. Lines
// before the first section header are [local], as in blocklistd.conf. Nothing here does a network
// look-up; users, groups, services and protocols are looked up in the system's local files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/sources.h"

namespace egress::policy {

/// What reading the rules gave.
struct Parsed {
    Policy policy;                       ///< only meaningful where ok()
    std::vector<Diagnostic> diagnostics; ///< in the order of the text; at most max_diagnostics
    bool ok() const;                     ///< no error among them
};

/// Parses one text; `file` is only for messages. Does not check().
Parsed parse_text(std::string_view text, std::string_view file, const Sources& sources = {});

/// Parses `file` and then every *.conf in `directory`, sorted by name (an absent directory is
/// empty; an absent file is an error). Adds check()'s warnings, and errors for what this version
/// cannot enforce. Lists are in egress.d beside `file`, unless `sources` says otherwise.
Parsed parse_files(const std::string& file, const std::string& directory, Sources sources = {});

/// The same with `text`, which messages call `name`, in the place of what stands in `file`.
Parsed parse_instead(std::string_view text, const std::string& name, const std::string& file,
                     const std::string& directory, Sources sources = {});

/// Warnings for lines that can never decide: shadowed by an earlier line, or impossible in
/// themselves (type stream with proto udp; an IPv4 address with tcp6; grow shorter than the
/// aggregate; a program that does not exist; ...), and for [egress] lines that are weaker than they
/// look. Looks at the files and users of this system.
std::vector<Diagnostic> check(const Policy& policy, const Sources& sources = {});

} // namespace egress::policy
