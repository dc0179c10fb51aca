#include "helper/table.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <fmt/format.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>
#include <sys/utsname.h>

namespace egress::helper {

namespace {

constexpr std::size_t large_batch = 64 * 1024; ///< bytes; 700 elements

/// Linux 6.12 and later. An older kernel with a backport is only slower.
bool kernel_renews() {
    utsname name{};
    int major = 0;
    int minor = 0;
    // For debugging, and to test the behaviour with older kernels.
    return std::getenv("EGRESS_HELPER_COMPAT") == nullptr && uname(&name) == 0 &&
           std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 12));
}

} // namespace

Error disturbed() {
    return Error{"the firewall changed during each of many attempts to change it", ERESTART};
}

Error foreign(const std::string& set) {
    return Error{
        fmt::format("set {} in table inet egress was made by another program: delete it", set),
        EEXIST};
}

Result<Table> Table::open() {
    auto netlink = Netlink::open(NETLINK_NETFILTER);
    if (!netlink) {
        return std::unexpected(netlink.error());
    }
    return Table(std::move(*netlink), kernel_renews());
}

Result<> Table::listen() {
    auto listener = Listener::open();
    if (!listener) {
        return std::unexpected(listener.error());
    }
    listener_.emplace(std::move(*listener));
    return {};
}

bool Table::hear() {
    const bool heard = listener_ && listener_->changed(netlink_.port());
    if (heard || missed_) {
        memory_.forget();
        layout_.changed = true;
    }
    return std::exchange(missed_, false) || heard;
}

/// Commits a large batch without hearing of it: the kernel writes a notification for each element,
/// which costs time and would overrun the listener's buffer.
Result<Outcome> Table::commit_unheard(Batch& batch) {
    if (!listener_ || batch.size() < large_batch) {
        return commit(netlink_, batch);
    }
    listener_->pause();
    auto outcome = commit(netlink_, batch);
    const auto resumed = listener_->resume();
    const bool committed = outcome && outcome->committed() && outcome->generation != 0;
    const auto now = generation(netlink_);
    missed_ = missed_ || !resumed || !now ||
              *now != (committed ? outcome->generation : layout_.generation);
    return outcome;
}

/// Updates the layout from the kernel; reads it only if it may have changed.
Result<> Table::refresh() {
    if (!layout_.changed && layout_.generation != 0) {
        const auto now = generation(netlink_);
        if (!now) {
            return std::unexpected(now.error());
        }
        if (*now == layout_.generation) {
            return {};
        }
    }
    auto read = read_layout(netlink_);
    if (!read) {
        layout_.changed = true;
        return std::unexpected(read.error());
    }
    if (read->generation != layout_.generation && !listener_) {
        memory_.forget(); // another program has changed the ruleset, perhaps our table
    }
    layout_ = std::move(*read);
    return {};
}

/// A batch that commits only on the ruleset that we know. If others change it all the time, later
/// attempts commit on any ruleset: making something that exists is no error.
Batch Table::begin(int attempt) {
    guarded_ = attempt < attempts / 2;
    return Batch(netlink_, guarded_ ? layout_.generation : 0);
}

Result<Outcome> Table::finish(Batch& batch) {
    auto outcome = commit_unheard(batch);
    if (!outcome || !guarded_) {
        memory_.forget(); // the result is uncertain
        layout_.changed = true;
    }
    if (!outcome) {
        return outcome;
    }
    if (!outcome->committed()) {
        layout_.changed = true; // it describes the refused batch
        const auto gone = [](const Outcome::Refusal& refusal) { return refusal.code == ENOENT; };
        outcome->stale =
            outcome->stale || (!guarded_ && std::ranges::any_of(outcome->refusals, gone));
        return outcome;
    }
    if (outcome->generation != 0) {
        layout_.generation = outcome->generation;
    }
    return outcome;
}

bool Table::fits(const std::string& set) const {
    const auto known = layout_.sets.find(set);
    return known == layout_.sets.end() || known->second.fits;
}

Result<> Table::flush(const std::string& name) {
    for (int attempt = 0; attempt < attempts; ++attempt) {
        if (auto ready = refresh(); !ready) {
            return ready;
        }
        std::vector<std::string> ours;
        for (const auto& [set, known] : layout_.sets) {
            if (known.id.name == name && known.fits) {
                ours.push_back(set);
            }
        }
        Batch batch = begin(attempt);
        for (const auto& set : ours) {
            drop_set(batch, layout_, set);
        }
        const auto outcome = finish(batch);
        if (!outcome) {
            return std::unexpected(outcome.error());
        }
        if (outcome->committed()) {
            memory_.learn(name, {}, kernel_now());
            return {};
        }
        if (!outcome->stale) {
            return std::unexpected(
                kernel_error("cannot flush " + name, outcome->refusals.front().code));
        }
    }
    return std::unexpected(disturbed());
}

Result<> Table::clear() {
    Batch batch(netlink_, 0); // whatever else changes: the table shall go
    drop_table(batch, layout_);
    guarded_ = false;
    const auto outcome = finish(batch);
    if (!outcome) {
        return std::unexpected(outcome.error());
    }
    if (outcome->committed() || outcome->refusals.front().code == ENOENT) {
        return {};
    }
    return std::unexpected(
        kernel_error("cannot remove table inet egress", outcome->refusals.front().code));
}

/// Reads the sets of a name that are in force, and caches them if these are all.
Result<> Table::show_sets(const std::string& name, const Show& show) {
    const auto start = kernel_now();
    std::vector<Element> elements;
    bool all = true;
    for (const auto& [set, known] : layout_.sets) {
        if (known.id.name != name || !known.fits) {
            continue;
        }
        if (!layout_.table || !layout_.hooked || known.rules.empty()) {
            all = false;
            continue;
        }
        const auto got = read_elements(netlink_, known.id, set, start, elements, show);
        if (!got) {
            return std::unexpected(got.error());
        }
        all = all && *got;
    }
    if (all) {
        memory_.learn(name, elements, start);
    }
    return {};
}

Result<std::size_t> Table::list(const std::string& name, const Show& show) {
    std::size_t shown = 0;
    const auto counted = [&](const Element& element) {
        ++shown;
        show(element);
    };
    for (int attempt = 0; attempt < attempts; ++attempt) {
        auto done = refresh();
        if (done) {
            done = show_sets(name, counted);
        }
        if (done) {
            return shown;
        }
        if (done.error().code != ENOENT) {
            return std::unexpected(done.error());
        }
        layout_.changed = true; // a set disappeared meanwhile
    }
    return std::unexpected(disturbed());
}

Result<std::vector<std::string>> Table::names() {
    if (auto ready = refresh(); !ready) {
        return std::unexpected(ready.error());
    }
    std::vector<std::string> found;
    for (const auto& [set, known] : layout_.sets) {
        if (known.fits) {
            found.push_back(known.id.name);
        }
    }
    std::ranges::sort(found);
    const auto twice = std::ranges::unique(found);
    found.erase(twice.begin(), twice.end());
    return found;
}

} // namespace egress::helper
