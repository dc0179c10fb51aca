// A run that is asked for (egressctl run): its lines -> a policy of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/base/answered.h"
#include "daemon/base/result.h"
#include "daemon/bpf/load/jobs.h"
#include "daemon/policy/rules/rule.h"

namespace egress {

struct JobRequest {
    static constexpr std::size_t most_lines = 128;
    static constexpr std::size_t most_text = 64u << 10u; ///< bytes

    bpf::Jobs::Asker asker;
    std::string rules;   ///< lines of [egress]
    std::string control; ///< the daemon's own socket, which answers a run itself
};

/// The lines of a job's policy: questions to the resolvers if anything is allowed at all, then
/// those that were asked for, then the refusal of everything else. Fails with every error in the
/// text, by line.
Result<policy::Policy> policy_of(const JobRequest& request, const std::vector<Endpoint>& resolvers);

/// The answer's kind for a job that was not begun.
Answered answered(bpf::Jobs::Refused why);

} // namespace egress
