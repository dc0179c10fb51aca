// Lines of [egress] and flows by chance, drawn from few values so that they meet often.
#pragma once

#include <span>
#include <string>

#include "test/policy/egress_reference.h"
#include "test/policy/random_policy.h"

namespace egress::policy {

/// A list that random rules name.
struct ListFile {
    const char* name;
    const char* text;
};
std::span<const ListFile> random_lists();

/// What the grammar can say. Without `all`, only what this version can enforce.
EgressRule random_egress_rule(Random& random, bool all = true);
/// `rules` lines, and the lists that they name.
void random_egress(Random& random, Policy& policy, std::size_t rules, bool all = true);
reference::Flow random_flow(Random& random);

} // namespace egress::policy
