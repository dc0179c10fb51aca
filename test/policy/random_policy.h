// Policies and reports by chance, drawn from few values so that they meet often.
#pragma once

#include <random>

#include "daemon/policy/login/match.h"

namespace egress::policy {

using Random = std::mt19937_64;

/// A seed from EGRESS_SEED, else from the clock; printed, so that a failure can be repeated.
std::uint64_t seed();

/// Anything that the grammar can say, [egress] and [settings] included.
Policy random_policy(Random& random, std::size_t local, std::size_t remote);
Subject random_subject(Random& random);

} // namespace egress::policy
