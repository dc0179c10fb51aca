#include "helper/table.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>

#include <fmt/format.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>
#include <sys/utsname.h>

namespace egress::helper {

namespace {

constexpr int attempts = 16; ///< at a commit that others' commits make stale

/// Since Linux 6.12. A kernel that has it under an older number loses nothing but speed.
bool kernel_renews() {
    utsname name{};
    int major = 0;
    int minor = 0;
    // For finding faults, and to test what older kernels do.
    return std::getenv("EGRESS_HELPER_COMPAT") == nullptr && uname(&name) == 0 &&
           std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 12));
}

Error disturbed() {
    return Error{"the firewall changed during each of many attempts to change it", ERESTART};
}

Error foreign(const std::string& set) {
    return Error{
        fmt::format("set {} in table inet egress was made by another program: delete it", set),
        EEXIST};
}

/// Owners of a batch's messages: a change itself, or the set that it was the first to need.
int owner_of_set(std::size_t change) {
    return Batch::nobody - 1 - static_cast<int>(change);
}

} // namespace

/// What of a call to apply() is still to do.
struct Table::Round {
    std::span<const Change> changes;
    std::span<Result<>> results;
    std::vector<std::size_t> todo;
    std::vector<Lifetime> lifetimes; ///< of todo, counters filled in

    void refuse(std::size_t change, const Error& error) {
        results[change] = std::unexpected(error);
    }

    void refuse_all(const Error& error) {
        for (const auto change : todo) {
            refuse(change, error);
        }
        todo.clear();
    }

    /// Refuses what the kernel blamed; false where it blamed nobody.
    bool refuse_blamed(const Outcome& outcome) {
        for (const auto& [owner, code] : outcome.refusals) {
            const Error error = kernel_error("the kernel refused this", code);
            if (owner >= 0) {
                refuse(static_cast<std::size_t>(owner), error);
            } else if (owner < Batch::nobody) {
                refuse_set(static_cast<std::size_t>(Batch::nobody - 1 - owner), error);
            }
        }
        return std::erase_if(todo, [&](std::size_t change) { return !results[change]; }) != 0;
    }

  private:
    /// Everybody who needs the set that this change needs.
    void refuse_set(std::size_t first, const Error& error) {
        const auto set_for = [&](std::size_t change) {
            const Change& asked = changes[change];
            return set_of(asked.name, asked.block.target, asked.block.action);
        };
        const SetId set = set_for(first);
        for (const auto change : todo) {
            if (changes[change].add && set_for(change) == set) {
                refuse(change, error);
            }
        }
    }
};

Result<Table> Table::open() {
    auto netlink = Netlink::open(NETLINK_NETFILTER);
    if (!netlink) {
        return std::unexpected(netlink.error());
    }
    return Table(std::move(*netlink), kernel_renews());
}

/// Makes the layout what the kernel has, reading it only if it can have changed.
Result<> Table::refresh() {
    if (!layout_.changed && layout_.generation != 0) {
        const auto now = generation(netlink_);
        if (!now) {
            return std::unexpected(now.error());
        }
        if (*now == layout_.generation || *now == expected_) {
            layout_.generation = *now;
            return {};
        }
    }
    auto read = read_layout(netlink_);
    if (!read) {
        layout_.changed = true;
        return std::unexpected(read.error());
    }
    layout_ = std::move(*read);
    return {};
}

Result<Outcome> Table::finish(Batch& batch) {
    expected_ = layout_.generation + 1;
    auto outcome = commit(netlink_, batch);
    if (!outcome || !outcome->committed()) {
        layout_.changed = true; // it says what the batch would have made
    }
    return outcome;
}

bool Table::fits(const std::string& set) const {
    const auto known = layout_.sets.find(set);
    return known == layout_.sets.end() || known->second.fits;
}

void write_gone(Batch& batch, const SetId& set, const std::string& name, const Target& target,
                int owner) {
    ElementWriter(batch, NFT_MSG_NEWSETELEM, set, name, owner).put(target);
    ElementWriter(batch, NFT_MSG_DELSETELEM, set, name, owner).put(target);
}

void Table::write_rem(Batch& batch, const Change& change, int owner) {
    for (const auto action : {Action::drop, Action::reject}) {
        const SetId set = set_of(change.name, change.block.target, action);
        const std::string name = set_name(set);
        const auto known = layout_.sets.find(name);
        if (known != layout_.sets.end() && known->second.fits) {
            write_gone(batch, set, name, change.block.target, owner);
        }
    }
}

void Table::write_add(Batch& batch, const Change& change, Lifetime lifetime, int owner) {
    const Target& target = change.block.target;
    const SetId set = set_of(change.name, target, change.block.action);
    const std::string name = set_name(set);
    put_set(batch, layout_, set, owner_of_set(static_cast<std::size_t>(owner)));
    // A target has one action: the one asked for last.
    const auto other = set.action == Action::drop ? Action::reject : Action::drop;
    const SetId other_set = set_of(change.name, target, other);
    const std::string other_name = set_name(other_set);
    if (layout_.sets.contains(other_name)) {
        write_gone(batch, other_set, other_name, target, owner);
    }
    lifetime.seconds = change.block.seconds;
    lifetime.renew = renews_;
    if (!renews_) {
        write_gone(batch, set, name, target, owner);
    }
    ElementWriter(batch, NFT_MSG_NEWSETELEM, set, name, owner).put(target, &lifetime);
}

/// Where an element must be made anew to get another time, its counter is carried over.
Result<> Table::read_counters(Round& round) {
    round.lifetimes.assign(round.todo.size(), Lifetime{});
    for (std::size_t i = 0; !renews_ && i < round.todo.size(); ++i) {
        const Change& change = round.changes[round.todo[i]];
        const SetId set = set_of(change.name, change.block.target, change.block.action);
        const std::string name = set_name(set);
        if (!change.add || !layout_.sets.contains(name) || !fits(name)) {
            continue;
        }
        const auto element = read_element(netlink_, set, name, change.block.target);
        if (!element) {
            return std::unexpected(element.error());
        }
        if (*element) {
            round.lifetimes[i].packets = (*element)->packets;
            round.lifetimes[i].bytes = (*element)->bytes;
        }
    }
    return {};
}

void Table::write(Batch& batch, Round& round) {
    const auto adds = [&](std::size_t change) { return round.changes[change].add; };
    if (std::ranges::any_of(round.todo, adds)) {
        put_base(batch, layout_);
    }
    for (std::size_t i = 0; i < round.todo.size(); ++i) {
        const std::size_t index = round.todo[i];
        const Change& change = round.changes[index];
        if (!change.add) {
            write_rem(batch, change, static_cast<int>(index));
            continue;
        }
        const auto set = set_name(set_of(change.name, change.block.target, change.block.action));
        if (fits(set)) {
            write_add(batch, change, round.lifetimes[i], static_cast<int>(index));
        } else {
            round.refuse(index, foreign(set));
        }
    }
    std::erase_if(round.todo, [&](std::size_t change) { return !round.results[change]; });
}

/// Where the kernel blames nobody but the batch's size, two smaller ones may pass.
void Table::halve(Round& round) {
    const auto middle = round.todo.begin() + static_cast<std::ptrdiff_t>(round.todo.size() / 2);
    Round first{round.changes, round.results, {round.todo.begin(), middle}, {}};
    Round second{round.changes, round.results, {middle, round.todo.end()}, {}};
    run(first);
    run(second);
    round.todo.clear();
}

void Table::run(Round& round) {
    for (int attempt = 0; attempt < attempts && !round.todo.empty(); ++attempt) {
        auto ready = refresh();
        if (ready) {
            ready = read_counters(round);
        }
        if (!ready) {
            return round.refuse_all(ready.error());
        }
        Batch batch(netlink_, layout_.generation);
        write(batch, round);
        const auto outcome = finish(batch);
        if (!outcome) {
            return round.refuse_all(outcome.error());
        }
        if (outcome->committed()) {
            round.todo.clear();
        } else if (!outcome->stale && !round.refuse_blamed(*outcome)) {
            const int code = outcome->refusals.front().code;
            const bool large = code == ENOBUFS || code == EMSGSIZE || code == ENOMEM;
            if (large && round.todo.size() > 1) {
                return halve(round);
            }
            return round.refuse_all(
                kernel_error("the kernel refused to change the firewall", code));
        }
    }
    round.refuse_all(disturbed());
}

std::vector<Result<>> Table::apply(std::span<const Change> changes) {
    std::vector<Result<>> results(changes.size());
    Round round{changes, results, std::vector<std::size_t>(changes.size()), {}};
    std::iota(round.todo.begin(), round.todo.end(), std::size_t{0});
    run(round);
    return results;
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
        Batch batch(netlink_, layout_.generation);
        for (const auto& set : ours) {
            drop_set(batch, layout_, set);
        }
        const auto outcome = finish(batch);
        if (!outcome) {
            return std::unexpected(outcome.error());
        }
        if (outcome->committed()) {
            return {};
        }
        if (!outcome->stale) {
            return std::unexpected(
                kernel_error("cannot flush " + name, outcome->refusals.front().code));
        }
    }
    return std::unexpected(disturbed());
}

/// The elements of all sets of a name, or of those only that a rule looks up.
Result<std::vector<Element>> Table::read(const std::string& name, bool in_force) {
    std::vector<Element> elements;
    for (const auto& [set, known] : layout_.sets) {
        const bool works = layout_.table && layout_.hooked && known.rule != 0;
        if (known.id.name != name || !known.fits || (in_force && !works)) {
            continue;
        }
        if (auto got = read_elements(netlink_, known.id, set, elements); !got) {
            return std::unexpected(got.error());
        }
    }
    return elements;
}

Result<std::vector<Element>> Table::list(const std::string& name) {
    for (int attempt = 0; attempt < attempts; ++attempt) {
        if (auto ready = refresh(); !ready) {
            return std::unexpected(ready.error());
        }
        auto elements = read(name, true);
        if (elements || elements.error().code != ENOENT) {
            return elements;
        }
        layout_.changed = true; // a set went away under our eyes
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
