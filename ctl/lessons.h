// The traffic seen -> the lines of [egress] that allow it.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "daemon/policy/rules/egress_rule.h"
#include "daemon/store/event_row.h"

namespace egress::ctl {

/// One line, and the traffic from which it was learnt.
struct Lesson {
    policy::EgressRule rule;
    std::string line;   ///< in the form of the rules file; empty: no line can express it
    std::string seen;   ///< program, user and destination for people, if no line can express it
    std::string remark; ///< why not, or how the line is wider than the traffic seen
    std::string program;
    std::size_t addresses = 0;
    std::uint64_t count = 0;
    std::uint32_t first = 0; ///< wall-clock seconds
    std::uint32_t last = 0;
    std::set<std::string> refusing; ///< lines that refused it, or would have without monitoring
};

struct LessonOptions {
    bool exact = false; ///< no prefixes for neighbours
    bool files = true;  ///< check whether programs exist on this system
};

/// This many neighbours (of a /24 or a /64) with the same ports become their prefix.
inline constexpr std::size_t neighbours = 8;

/// Aggregated by program, user, place, type and protocol: ports of one address become a list,
/// neighbours a prefix.
std::vector<Lesson> learn(const std::vector<store::EventRow>& rows, const LessonOptions& options);

} // namespace egress::ctl
