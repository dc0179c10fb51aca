// Warnings for lines that are valid but have no effect.
#pragma once

#include <vector>

#include "daemon/policy/rules/rule.h"
#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/sources.h"

namespace egress::policy {

/// Warnings for lines that can never decide: shadowed by an earlier line, or impossible in
/// themselves (type stream with proto udp; an IPv4 address with tcp6; grow shorter than the
/// aggregate; a program that does not exist; ...), and for [egress] lines that are weaker than they
/// seem. Reads the files and users of this system.
std::vector<Diagnostic> check(const Policy& policy, const Sources& sources = {});

} // namespace egress::policy
