// Computes the changes that make a set contain exactly the wanted blocks. Pure.
#pragma once

#include <vector>

#include "helper/proto.h"

namespace egress::helper {

struct Plan {
    std::vector<Block> add; ///< missing
    std::vector<Element>
        renew; ///< existing with another time: the wanted block, the current counter
    std::vector<Block> remove; ///< existing and not wanted
    /// Existing with another action than one of `add`, to be removed once that is in force: each
    /// action has a set and a rule of its own, and a packet between the two rules would find the
    /// block in neither.
    std::vector<Block> remove_later;
};

/// Times that differ by at most this many seconds are equal: lines take a while to arrive, and
/// seconds are rounded.
inline constexpr std::uint64_t same_time = 2;

/// `wanted` may contain a target more than once: the last one counts. The same target with another
/// action is another element. Takes both by value to sort them.
Plan diff(std::vector<Element> have, std::vector<Block> wanted);

} // namespace egress::helper
