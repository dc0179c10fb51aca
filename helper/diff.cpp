#include "helper/diff.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace egress::helper {

namespace {

bool same(std::uint64_t left, std::uint64_t right) {
    if (left == for_ever || right == for_ever) {
        return left == right;
    }
    left = std::min(left, longest_timeout);
    right = std::min(right, longest_timeout);
    return (left > right ? left - right : right - left) <= same_time;
}

/// Sorts by target and keeps the last one of equal targets.
void keep_last(std::vector<Block>& blocks) {
    std::vector<std::uint32_t> at(blocks.size());
    std::iota(at.begin(), at.end(), 0U);
    std::ranges::sort(at, {}, [&](std::uint32_t i) { return std::pair(blocks[i].target, i); });
    std::vector<Block> kept;
    kept.reserve(blocks.size());
    for (const auto i : at) {
        if (!kept.empty() && kept.back().target == blocks[i].target) {
            kept.back() = blocks[i];
        } else {
            kept.push_back(blocks[i]);
        }
    }
    blocks = std::move(kept);
}

auto order(const Block& block) {
    return std::pair(block.target, block.action);
}

} // namespace

Plan diff(std::vector<Element> have, std::vector<Block> wanted) {
    const auto of_element = [](const Element& element) { return order(element.block); };
    std::ranges::sort(have, {}, of_element);
    // A dump of a hash table that is being resized may show an element twice.
    const auto twice = std::ranges::unique(have, {}, of_element);
    have.erase(twice.begin(), twice.end());
    keep_last(wanted);

    Plan plan;
    auto there = have.begin();
    for (const Block& block : wanted) {
        for (; there != have.end() && of_element(*there) < order(block); ++there) {
            plan.remove.push_back(there->block);
        }
        if (there == have.end() || of_element(*there) != order(block)) {
            plan.add.push_back(block);
            continue;
        }
        if (!same(there->block.seconds, block.seconds)) {
            plan.renew.push_back(Element{block, there->packets, there->bytes});
        }
        ++there;
    }
    for (; there != have.end(); ++there) {
        plan.remove.push_back(there->block);
    }
    const auto is_replaced = [&](const Block& block) {
        return std::ranges::binary_search(plan.add, block.target, {}, &Block::target);
    };
    for (const Block& block : std::exchange(plan.remove, {})) {
        (is_replaced(block) ? plan.remove_later : plan.remove).push_back(block);
    }
    return plan;
}

} // namespace egress::helper
