// Many blocks of one name, sorted by the set that holds them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "helper/layout.h"

namespace egress::helper {

/// Blocks and elements by the set that they belong to.
template <typename Item>
struct Shelf {
    SetId set;
    std::string name;
    std::vector<const Item*> items;
};

inline const Block& block_of(const Block& block) {
    return block;
}
inline const Block& block_of(const Element& element) {
    return element.block;
}

/// The shelves of the sets in use.
template <typename Item>
std::map<std::uint32_t, Shelf<Item>> shelve(const Layout& layout, const std::string& name,
                                            const std::vector<Item>& items) {
    std::map<std::uint32_t, Shelf<Item>> shelves;
    for (const Item& item : items) {
        const auto& [target, action, seconds] = block_of(item);
        // A SetId without its name, which all items share: avoids a string per item.
        const std::uint32_t key = static_cast<std::uint32_t>(shape_of(target)) << 16U |
                                  static_cast<std::uint32_t>(action) << 9U |
                                  static_cast<std::uint32_t>(target.source.base.is_v4()) << 8U |
                                  target.source.length;
        auto [shelf, fresh] = shelves.try_emplace(key);
        if (fresh) {
            shelf->second.set = layout.placed(set_of(name, target, action));
            shelf->second.name = set_name(shelf->second.set);
        }
        shelf->second.items.push_back(&item);
    }
    return shelves;
}

} // namespace egress::helper
