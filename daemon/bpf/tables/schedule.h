// What a rule decides and when, in the kernel's form.
#pragma once

#include <cstdint>

#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress::bpf {

/// `wall_at_boot`: seconds since the epoch at zero of the boot clock. `line` is left to the caller.
Result<egress_rule> compile_rule(const policy::EgressRule& rule, std::int64_t wall_at_boot);

} // namespace egress::bpf
