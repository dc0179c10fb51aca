// What must change so that a set holds exactly what is wanted. Pure.
#pragma once

#include <vector>

#include "helper/proto.h"

namespace egress::helper {

struct Plan {
    std::vector<Block> add;     ///< not there
    std::vector<Element> renew; ///< there with another time: the wanted block, the counter it has
    std::vector<Block> remove;  ///< there and not wanted
};

/// Times this far apart are the same: lines take a while to arrive, and seconds are rounded.
inline constexpr std::uint64_t same_time = 2;

/// `wanted` may hold a target more than once: the last one counts. The same target with another
/// action is another element. Takes both by value to sort them.
Plan diff(std::vector<Element> have, std::vector<Block> wanted);

} // namespace egress::helper
