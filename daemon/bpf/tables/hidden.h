// What keeps answers of resolvers from the hooks on this system, so that programs learn addresses
// that are granted to no line.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/policy/rules/rule.h"

namespace egress::bpf {

/// One cause, and what to do about it; printable text.
struct HiddenAnswers {
    std::string what;
    std::string advice;
    friend bool operator==(const HiddenAnswers&, const HiddenAnswers&) = default;
};

/// For a policy that needs answers. `resolvers`: those that are approved. Reads files below `root`:
/// not for the loop.
std::vector<HiddenAnswers> hidden_answers(const policy::Policy& policy,
                                          const std::vector<Endpoint>& resolvers,
                                          const std::string& root = "");

/// "192.0.2.1, [2001:db8::1]:5353"
std::string text_of(const std::vector<Endpoint>& resolvers);

} // namespace egress::bpf
