// Policies with much overlap, and scenes drawn so that they meet the edges of a policy's lines.
#pragma once

#include "test/bpf/scene.h"
#include "test/policy/random_egress.h"

namespace egress::bpf {

using policy::Random;

/// `rules` lines; `crafted`: many prefixes around few addresses, lists of them that lines share,
/// many programs, ends at awkward times.
policy::Policy random_policy(Random& random, std::size_t rules, bool crafted);

/// Meets most of what one of the lines asks for, and other lines' edges for the rest.
Scene random_scene(Random& random, const policy::Policy& policy, std::int64_t offset);

} // namespace egress::bpf
