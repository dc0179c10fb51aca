/// The programs that not every kernel accepts: chooses which to use here.
///
/// Each is probed: an empty program of its kind is loaded and attached. Neither the kernel's
/// version nor its types show what it was built with or lets a service do.
#pragma once

#include <vector>

#include "daemon/bpf/load/loader.h"

struct bpf_object;

namespace egress::bpf {

/// Selects the best ones for loading with the object; returns the jobs that have none, and why.
std::vector<Coverage> choose_tiers(bpf_object* object);

} // namespace egress::bpf
