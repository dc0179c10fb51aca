// Table::sync: reads, compares, and changes the differences in one transaction.
#include <algorithm>
#include <map>
#include <utility>

#include <linux/netfilter/nf_tables.h>

#include "helper/shelf.h"
#include "helper/table.h"

namespace egress::helper {

namespace {

void write_adds(Batch& batch, const std::map<std::uint32_t, Shelf<Block>>& shelves, bool renews) {
    for (const auto& [key, shelf] : shelves) {
        ElementWriter writer(batch, NFT_MSG_NEWSETELEM, shelf.name);
        for (const Block* block : shelf.items) {
            const Lifetime lifetime{block->seconds, renews, 0, 0};
            writer.put(block->target, &lifetime);
        }
    }
}

/// Makes and deletes each, because it may have expired since we read it.
void write_removals(Batch& batch, const Shelf<Block>& shelf) {
    for (const std::uint16_t type : {NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM}) {
        ElementWriter writer(batch, type, shelf.name);
        for (const Block* block : shelf.items) {
            writer.put(block->target);
        }
    }
}

void write_renewals(Batch& batch, const Shelf<Element>& shelf, bool renews) {
    if (!renews) {
        for (const Element* element : shelf.items) {
            write_gone(batch, shelf.name, element->block.target, Batch::shared);
        }
    }
    ElementWriter writer(batch, NFT_MSG_NEWSETELEM, shelf.name);
    for (const Element* element : shelf.items) {
        const Lifetime lifetime{element->block.seconds, renews, renews ? 0 : element->packets,
                                renews ? 0 : element->bytes};
        writer.put(element->block.target, &lifetime);
    }
}

} // namespace

/// All existing elements of this name, in force or not, from the cache or the kernel.
Result<std::vector<Element>> Table::elements(const std::string& name) {
    const auto now = kernel_now();
    if (auto remembered = memory_.recall(name, now)) {
        return std::move(*remembered);
    }
    std::vector<Element> found;
    bool whole = true;
    for (const auto& [set, known] : layout_.sets) {
        if (known.id.name == name && known.fits && layout_.placed(known.id) == known.id) {
            const auto got = read_elements(netlink_, known.id, set, now, found);
            if (!got) {
                return std::unexpected(got.error());
            }
            whole = whole && *got;
        }
    }
    if (whole) {
        memory_.learn(name, found, now);
    }
    return found;
}

/// Reads the counters of elements that must be replaced to get another time.
Result<> Table::read_counters(const std::string& name, std::vector<Element>& renewals) {
    for (Element& element : renewals) {
        const SetId set = layout_.placed(set_of(name, element.block.target, element.block.action));
        const auto now = read_element(netlink_, set, set_name(set), element.block.target);
        if (!now) {
            return std::unexpected(now.error());
        }
        if (*now) {
            element.packets = (*now)->packets;
            element.bytes = (*now)->bytes;
        }
    }
    return {};
}

/// Writes sets first, because the elements need them; drops sets that should be empty as a whole.
Result<> Table::write_plan(Batch& batch, const std::string& name, const std::vector<Block>& wanted,
                           const Plan& plan) {
    if (!wanted.empty()) {
        put_base(batch, layout_);
        write_exemptions(batch);
    }
    const auto shelves = shelve(layout_, name, wanted);
    std::vector<std::string> dropped;
    for (const auto& [set, known] : layout_.sets) {
        const auto same = [&](const auto& shelf) { return shelf.second.name == set; };
        if (known.id.name == name && known.fits && plan.remove_later.empty() &&
            std::ranges::none_of(shelves, same)) {
            dropped.push_back(set);
        }
    }
    for (const auto& set : dropped) {
        drop_set(batch, layout_, set);
    }
    for (const auto& [key, shelf] : shelves) {
        if (!fits(shelf.name)) {
            return std::unexpected(foreign(shelf.name));
        }
        put_set(batch, layout_, shelf.set, Batch::shared);
    }
    for (const auto& [key, shelf] : shelve(layout_, name, plan.remove)) {
        if (layout_.sets.contains(shelf.name)) { // else it was dropped with its set
            write_removals(batch, shelf);
        }
    }
    write_adds(batch, shelve(layout_, name, plan.add), renews_);
    for (const auto& [key, shelf] : shelve(layout_, name, plan.renew)) {
        write_renewals(batch, shelf, renews_);
    }
    return {};
}

Result<Outcome> Table::sync_once(int attempt, const std::string& name,
                                 const std::vector<Block>& wanted, Synced& synced) {
    if (auto ready = refresh(); !ready) {
        return std::unexpected(ready.error());
    }
    auto have = elements(name);
    if (!have) {
        return std::unexpected(have.error());
    }
    Plan plan = diff(std::move(*have), wanted);
    if (!renews_) {
        if (auto read = read_counters(name, plan.renew); !read) {
            return std::unexpected(read.error());
        }
    }
    synced = Synced{plan.add.size(), plan.remove.size(), !plan.remove_later.empty()};

    Batch batch = begin(attempt);
    if (auto written = write_plan(batch, name, wanted, plan); !written) {
        return std::unexpected(written.error());
    }
    auto outcome = finish(batch);
    if (outcome && outcome->committed()) {
        remember(name, plan);
    }
    return outcome;
}

void Table::remember(const std::string& name, const Plan& plan) {
    const auto now = kernel_now();
    for (const Block& block : plan.remove) {
        memory_.note(name, block, false, now);
    }
    for (const Block& block : plan.add) {
        memory_.note(name, block, true, now);
    }
    for (const Element& element : plan.renew) {
        memory_.note(name, element.block, true, now);
    }
}

Result<Synced> Table::sync(const std::string& name, const std::vector<Block>& wanted) {
    Synced before;
    auto result = sync_in_steps(name, wanted, before);
    if (before.unfinished) {
        memory_.forget(); // it knows one action of a target, and the kernel had both
    }
    return result;
}

/// `before` is what the first step did, if there is a second one.
Result<Synced> Table::sync_in_steps(const std::string& name, const std::vector<Block>& wanted,
                                    Synced& before) {
    for (int attempt = 0; attempt < attempts; ++attempt) {
        Synced synced;
        const auto outcome = sync_once(attempt, name, wanted, synced);
        if (!outcome && outcome.error().code == ENOENT) {
            layout_.changed = true; // a set disappeared meanwhile
            continue;
        }
        if (!outcome) {
            return std::unexpected(outcome.error());
        }
        if (outcome->committed()) {
            synced.added += before.added;
            synced.removed += before.removed;
            if (!synced.unfinished) {
                return synced;
            }
            before = synced;
            memory_.forget(); // it knows one action of a target, and the kernel has both now
            continue;
        }
        if (!outcome->stale) {
            return std::unexpected(
                kernel_error("cannot sync " + name, outcome->refusals.front().code));
        }
    }
    return std::unexpected(disturbed());
}

} // namespace egress::helper
