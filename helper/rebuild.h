// A large set of blocks that is put in force in pieces, so that single changes go in between.
//
// A set of this name that is in force, and that we have not read, stays in force as it is: beside
// it another is filled (SetId::second), and takes its place once it is complete. So nothing is open
// for a moment, and what is not wanted ends then. Where no such set is in force, the blocks go into
// one that is, piece by piece.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "helper/diff.h"
#include "helper/memory.h"
#include "helper/proto.h"

namespace egress::helper {

/// The work of a rebuild that is left; Table does it.
struct Rebuild {
    struct Wish {
        Block block;
        bool there = true;   ///< false: removed since
        std::int64_t at = 0; ///< kernel_now() at which the block had this time left
    };

    std::string name;
    std::vector<Wish> wishes; ///< of a target that is there twice, the last one counts
    bool begun = false;
    std::size_t left = 0;                      ///< the first ones are still to be done
    std::vector<Block> piece;                  ///< taken from the wishes; in no transaction yet
    std::set<std::string, std::less<>> olds{}; ///< sets in force that are replaced
    std::vector<std::string> leftovers{};      ///< sets that an earlier rebuild left behind
    bool counts = true;                        ///< `added` is what was missing before
    std::size_t added = 0;
    int attempts = 0; ///< since the last piece was committed

    Rebuild(std::string of, const std::vector<Block>& wanted, std::int64_t now);

    bool replaces(const std::string& set) const { return olds.contains(set); }
    /// Takes in an add or rem that went past it into the firewall.
    void change(const std::string& of, const Block& block, bool there, std::int64_t now);
    /// Fills the piece with what `done` does not know yet.
    void take(Memory& done, std::int64_t now);
};

} // namespace egress::helper
