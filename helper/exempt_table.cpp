// Table::exempt: puts the exemptions in force, and keeps them there.
#include <algorithm>

#include "helper/table.h"

namespace egress::helper {

/// True if each set holds exactly its group.
Result<bool> Table::exempts_exactly(const Exemptions& wanted) {
    for (const auto& [set, targets] : wanted.groups()) {
        std::vector<Element> found;
        if (auto read = read_elements(netlink_, set, set_name(set), kernel_now(), found); !read) {
            return std::unexpected(read.error());
        }
        std::vector<Target> have;
        have.reserve(found.size());
        for (const Element& element : found) {
            have.push_back(element.block.target);
        }
        std::ranges::sort(have);
        if (!std::ranges::equal(have, targets)) {
            return false;
        }
    }
    return true;
}

/// Adds the exemptions to a batch that makes or uses the table, if it lacks them.
void Table::write_exemptions(Batch& batch) {
    if (!has_exemptions(layout_, exemptions_)) {
        put_exemptions(batch, layout_, exemptions_);
    }
}

Result<std::size_t> Table::exempt(Exemptions wanted) {
    exemptions_ = std::move(wanted);
    for (int attempt = 0; attempt < attempts; ++attempt) {
        if (auto ready = refresh(); !ready) {
            return std::unexpected(ready.error());
        }
        if (has_exemptions(layout_, exemptions_)) {
            const auto exact = exempts_exactly(exemptions_);
            if (exact && *exact) {
                return exemptions_.size();
            }
            if (!exact && exact.error().code != ENOENT) {
                return std::unexpected(exact.error());
            }
        }
        Batch batch = begin(attempt);
        put_base(batch, layout_);
        put_exemptions(batch, layout_, exemptions_);
        const auto outcome = finish(batch);
        if (!outcome) {
            return std::unexpected(outcome.error());
        }
        if (outcome->committed()) {
            return exemptions_.size();
        }
        if (!outcome->stale) {
            return std::unexpected(
                kernel_error("cannot put the exemptions in force", outcome->refusals.front().code));
        }
    }
    return std::unexpected(disturbed());
}

} // namespace egress::helper
