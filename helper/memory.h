// What the kernel holds, as far as we know it from having read or written it.
//
// The kernel shows a set in pieces of 32 KiB and walks the whole set anew for each, so reading
// costs the square of the size: 2 s for 100,000 elements, and nothing else can be done meanwhile.
// Remembered is only what is certain: the owner forgets everything when the ruleset's generation
// was changed by another. Elements expire here at the same time as in the kernel.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "helper/proto.h"

namespace egress::helper {

/// Milliseconds of the clock that the kernel's timeouts keep: CLOCK_MONOTONIC.
std::int64_t kernel_now();

class Memory {
  public:
    static constexpr std::size_t max_facts =
        8'000'000; ///< 40 bytes each; a name past that is forgotten

    void forget() { names_.clear(); }

    /// These are all blocks of this name at `now`; a target that is there twice counts once.
    void learn(const std::string& name, const std::vector<Element>& all, std::int64_t now);

    /// This block was made, or removed, at `now`. Means nothing for names that were never learned.
    void note(const std::string& name, const Block& block, bool there, std::int64_t now);

    /// Everything of this name with the time left at `now`, counters unknown; nothing where it was
    /// never learned.
    std::optional<std::vector<Element>> recall(const std::string& name, std::int64_t now);

  private:
    struct Fact {
        Target target;
        std::uint32_t at = 0; ///< place among the facts: of one target the last counts
        Action action = Action::drop;
        bool there = true;
        std::int64_t ends = 0; ///< as of kernel_now(), or `never` (clock.h)
    };
    struct Facts {
        std::vector<Fact> all;
        std::size_t folded = 0; ///< these are one for each target, in order
    };

    static Fact fact(const Block& block, bool there, std::int64_t now);
    static void fold(Facts& facts);

    std::map<std::string, Facts, std::less<>> names_;
};

} // namespace egress::helper
