// Verdict and times of a rule, in the kernel's form.
#pragma once

#include <cstdint>

#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"
#include "daemon/policy/rules/egress_rule.h"

namespace egress::bpf {

/// `wall_at_boot`: seconds since the epoch when the boot clock was 0. The caller sets `line`.
Result<egress_rule> compile_rule(const policy::EgressRule& rule, std::int64_t wall_at_boot);

} // namespace egress::bpf
