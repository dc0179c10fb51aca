// Caches the kernel's elements that we have read or written.
//
// The kernel dumps a set in pieces of 32 KiB and walks the whole set again for each, so the cost is
// the square of the size: 2 s for 100,000 elements, and the helper can do no other work meanwhile.
// The cache has only certain facts: its owner clears it when another process has changed the
// table. Elements expire here at the same time as in the kernel.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "helper/proto.h"

namespace egress::helper {

/// Milliseconds of CLOCK_MONOTONIC, the clock of the kernel's timeouts.
std::int64_t kernel_now();

class Memory {
  public:
    /// 40 bytes each; a name with more is forgotten.
    static constexpr std::size_t max_facts = 8'000'000;

    void forget() { names_.clear(); }

    /// Stores all blocks of this name at `now`; a target that occurs twice counts once.
    void learn(const std::string& name, const std::vector<Element>& all, std::int64_t now);

    /// True if learn() has stored the blocks of this name.
    bool knows(const std::string& name) const { return names_.contains(name); }

    /// Stores that this block was made or removed at `now`. No effect for names that learn() lacks.
    void note(const std::string& name, const Block& block, bool there, std::int64_t now);

    /// All elements of this name with the time left at `now`, without counters; nullopt: never
    /// learned.
    std::optional<std::vector<Element>> recall(const std::string& name, std::int64_t now);

  private:
    struct Fact {
        Target target;
        std::uint32_t at = 0; ///< place among the facts: the last one of a target counts
        Action action = Action::drop;
        bool there = true;
        std::int64_t ends = 0; ///< time of kernel_now(), or `never` (clock.h)
    };
    struct Facts {
        std::vector<Fact> all;
        std::size_t folded = 0; ///< the first ones: one per target, in order
    };

    static Fact fact(const Block& block, bool there, std::int64_t now);
    static void fold(Facts& facts);

    std::map<std::string, Facts, std::less<>> names_;
};

} // namespace egress::helper
