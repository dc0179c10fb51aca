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
#include <unordered_map>
#include <vector>

#include "helper/proto.h"

namespace egress::helper {

/// Milliseconds of CLOCK_MONOTONIC, the clock of the kernel's timeouts.
std::int64_t kernel_now();

class Memory {
  public:
    /// 70 bytes each; a name with more is forgotten.
    static constexpr std::size_t max_facts = 8'000'000;

    void forget() { names_.clear(); }

    /// Stores all blocks of this name at `now`; of a target that occurs twice, the last one counts.
    void learn(const std::string& name, const std::vector<Element>& all, std::int64_t now);

    /// True if learn() has stored the blocks of this name.
    bool knows(const std::string& name) const { return names_.contains(name); }

    /// Stores that this block was made or removed at `now`. No effect for names that learn() lacks.
    void note(const std::string& name, const Block& block, bool there, std::int64_t now);

    /// True if learn() or note() has stored something of this target: also that it was removed.
    bool settled(const std::string& name, const Target& target) const;

    /// Makes room for so many targets of this name at once.
    void expect(const std::string& name, std::size_t targets);

    /// All elements of this name with the time left at `now`, without counters, in order of target;
    /// nullopt: never learned.
    std::optional<std::vector<Element>> recall(const std::string& name, std::int64_t now);

  private:
    struct Fact {
        Action action = Action::drop;
        bool there = true;
        std::int64_t ends = 0; ///< time of kernel_now(), or `never` (clock.h)
    };
    struct Hash {
        std::size_t operator()(const Target& target) const;
    };
    using Facts = std::unordered_map<Target, Fact, Hash>;

    static Fact fact(const Block& block, bool there, std::int64_t now);

    std::map<std::string, Facts, std::less<>> names_;
};

} // namespace egress::helper
