// The destination column of all rules -> the address tables.
#pragma once

#include "daemon/bpf/tables/compile.h"
#include "daemon/bpf/tables/vectors.h"

namespace egress::bpf {

/// Fills the address tables of `out`, and base->v4_top and v6_top. Must be the first to use the
/// pool: a run has room for small indexes only.
Result<> compile_destinations(const policy::Policy& policy, const World& world, VectorPool& pool,
                              Tables& out);

/// The name of a socket of AF_UNIX as the hooks read it; from a path or "@name".
egress_unix_name unix_name(std::string_view name);

} // namespace egress::bpf
