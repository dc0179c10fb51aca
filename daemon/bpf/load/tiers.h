/// The programs that not every kernel takes: which of them are used here.
///
/// They are probed, each with an empty program of its kind that is loaded and attached, as neither
/// the version nor the types say what a kernel was built with or lets a service do.
#pragma once

#include <vector>

#include "daemon/bpf/load/loader.h"

struct bpf_object;

namespace egress::bpf {

/// Has the best ones loaded with the object; which of the jobs are left without any, and why.
std::vector<Coverage> choose_tiers(bpf_object* object);

} // namespace egress::bpf
