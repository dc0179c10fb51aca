// Destinations by name -> the table of names (names.h of the kernel's side).
#pragma once

#include "daemon/base/result.h"
#include "daemon/bpf/tables/compile.h"
#include "daemon/bpf/tables/vectors.h"
#include "daemon/policy/rules/rule.h"

namespace egress::bpf {

/// The key of a pattern in the table; `secret` is World::names_key.
std::uint64_t key_of(const policy::NamePatterns::Pattern& pattern,
                     const std::array<std::uint64_t, 2>& secret);

/// Whether the host's own domains have every name of the pattern.
bool is_own(const policy::NamePatterns::Pattern& pattern, const std::vector<std::string>& search);

/// Fills out.names and what the base says of names.
Result<> compile_names(const policy::Policy& policy, const World& world, VectorPool& pool,
                       Tables& out);

} // namespace egress::bpf
