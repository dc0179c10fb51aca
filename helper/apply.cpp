// Table::apply: many changes in one transaction, without those that the kernel refuses.
#include <algorithm>
#include <cerrno>
#include <numeric>

#include <linux/netfilter/nf_tables.h>

#include "helper/table.h"

namespace egress::helper {

namespace {

/// Owners of a batch's messages: a change, or the set that the change was the first to need.
int owner_of_set(std::size_t change) {
    return Batch::shared - 1 - static_cast<int>(change);
}

bool too_large(const Outcome& outcome) {
    const int code = outcome.refusals.front().code;
    return code == ENOBUFS || code == EMSGSIZE || code == ENOMEM;
}

} // namespace

/// The remaining work of a call to apply().
struct Table::Round {
    std::span<const Change> changes;
    std::span<Result<>> results;
    std::vector<std::size_t> todo;
    std::vector<Lifetime> lifetimes; ///< of todo, counters filled in
    bool alone = false; ///< each change has messages of its own, so that the kernel can blame it

    void refuse(std::size_t change, const Error& error) {
        results[change] = std::unexpected(error);
    }

    void refuse_all(const Error& error) {
        for (const auto change : todo) {
            refuse(change, error);
        }
        todo.clear();
    }

    /// Refuses the changes that the kernel blamed. False: it blamed none.
    bool refuse_blamed(const Outcome& outcome) {
        for (const auto& [owner, code] : outcome.refusals) {
            const Error error = kernel_error("the kernel refused this", code);
            if (owner >= 0) {
                refuse(static_cast<std::size_t>(owner), error);
            } else if (owner < Batch::shared) {
                refuse_set(static_cast<std::size_t>(Batch::shared - 1 - owner), error);
            }
        }
        return std::erase_if(todo, [&](std::size_t change) { return !results[change]; }) != 0;
    }

  private:
    /// Refuses all changes that need the same set as this one.
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

void write_gone(Batch& batch, const std::string& set, const Target& target, int owner) {
    ElementWriter(batch, NFT_MSG_NEWSETELEM, set, owner).put(target);
    ElementWriter(batch, NFT_MSG_DELSETELEM, set, owner).put(target);
}

void Table::write_rem(Batch& batch, const Change& change, int owner) {
    for (const auto action : {Action::drop, Action::reject}) {
        const SetId set = set_of(change.name, change.block.target, action);
        for (const SetId& turn : turns(set)) {
            write_gone_if_there(batch, set_name(turn), change.block.target, owner);
        }
    }
}

void Table::write_gone_if_there(Batch& batch, const std::string& set, const Target& target,
                                int owner) {
    const auto known = layout_.sets.find(set);
    if (known != layout_.sets.end() && known->second.fits) {
        write_gone(batch, set, target, owner);
    }
}

/// The sets that hold what belongs into `set`: the one in use, and beside it the one that a rebuild
/// fills.
std::vector<SetId> Table::turns(const SetId& set) const {
    std::vector<SetId> sets{layout_.placed(set)};
    if (rebuild_ && rebuild_->replaces(set_name(sets[0]))) {
        sets.push_back(other_turn(sets[0]));
    }
    return sets;
}

void Table::write_add(Batch& batch, const Change& change, Lifetime lifetime, int owner) {
    const Target& target = change.block.target;
    const SetId set = set_of(change.name, target, change.block.action);
    const int set_owner = owner_of_set(static_cast<std::size_t>(owner));
    // A target has one action: the last one requested.
    const auto other = set.action == Action::drop ? Action::reject : Action::drop;
    for (const SetId& turn : turns(set_of(change.name, target, other))) {
        write_gone_if_there(batch, set_name(turn), target, owner);
    }
    lifetime.seconds = change.block.seconds;
    lifetime.renew = renews_;
    const auto sets = turns(set);
    put_set(batch, layout_, sets.front(), set_owner);
    for (const SetId& turn : sets) {
        const std::string name = set_name(turn);
        put_standby(batch, layout_, turn, set_owner);
        if (!renews_) {
            write_gone(batch, name, target, owner);
        }
        ElementWriter(batch, NFT_MSG_NEWSETELEM, name, owner).put(target, &lifetime);
    }
}

/// Reads the counters of elements that must be replaced to get another time, to keep the counters.
Result<> Table::read_counters(Round& round) {
    round.lifetimes.assign(round.todo.size(), Lifetime{});
    for (std::size_t i = 0; !renews_ && i < round.todo.size(); ++i) {
        const Change& change = round.changes[round.todo[i]];
        const SetId set =
            layout_.placed(set_of(change.name, change.block.target, change.block.action));
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

/// Writes the adds from `first` on that belong into one set, if that is all they need: many in a
/// message cost the kernel less. Returns their number.
std::size_t Table::write_run(Batch& batch, const Round& round, std::size_t first) {
    const auto change = [&](std::size_t i) -> const Change& {
        return round.changes[round.todo[i]];
    };
    const auto set_for = [](const Change& each) {
        return set_of(each.name, each.block.target, each.block.action);
    };
    const SetId set = set_for(change(first));
    SetId other = set;
    other.action = set.action == Action::drop ? Action::reject : Action::drop;
    const auto in_use = turns(set);
    const std::string name = set_name(in_use.front());
    if (!renews_ || !change(first).add || in_use.size() > 1 || !fits(name) ||
        layout_.sets.contains(set_name(layout_.placed(other)))) {
        return 0;
    }
    put_set(batch, layout_, in_use.front(), Batch::shared);
    ElementWriter writer(batch, NFT_MSG_NEWSETELEM, name);
    std::size_t next = first;
    for (; next < round.todo.size() && change(next).add && set_for(change(next)) == set; ++next) {
        const Lifetime lifetime{change(next).block.seconds, renews_, 0, 0};
        writer.put(change(next).block.target, &lifetime);
    }
    return next - first;
}

void Table::write(Batch& batch, Round& round) {
    const auto adds = [&](std::size_t change) { return round.changes[change].add; };
    if (std::ranges::any_of(round.todo, adds)) {
        put_base(batch, layout_);
        write_exemptions(batch);
    }
    std::size_t together = 0;
    for (std::size_t i = 0; i < round.todo.size(); i += std::max<std::size_t>(together, 1)) {
        together = round.alone ? 0 : write_run(batch, round, i);
        if (together > 0) {
            continue;
        }
        const std::size_t index = round.todo[i];
        const Change& change = round.changes[index];
        if (!change.add) {
            write_rem(batch, change, static_cast<int>(index));
            continue;
        }
        const auto sets = turns(set_of(change.name, change.block.target, change.block.action));
        const auto alien =
            std::ranges::find_if(sets, [this](const SetId& set) { return !fits(set_name(set)); });
        if (alien == sets.end()) {
            write_add(batch, change, round.lifetimes[i], static_cast<int>(index));
        } else {
            round.refuse(index, foreign(set_name(*alien)));
        }
    }
    std::erase_if(round.todo, [&](std::size_t change) { return !round.results[change]; });
}

/// If the kernel refuses the batch for its size, two smaller ones may pass.
void Table::halve(Round& round) {
    const auto middle = round.todo.begin() + static_cast<std::ptrdiff_t>(round.todo.size() / 2);
    Round first{round.changes, round.results, {round.todo.begin(), middle}, {}, round.alone};
    Round second{round.changes, round.results, {middle, round.todo.end()}, {}, round.alone};
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
        Batch batch = begin(attempt);
        write(batch, round);
        const auto outcome = finish(batch);
        if (!outcome) {
            return round.refuse_all(outcome.error());
        }
        if (outcome->committed()) {
            const auto now = kernel_now();
            for (const auto index : round.todo) {
                const Change& change = round.changes[index];
                memory_.note(change.name, change.block, change.add, now);
                if (rebuild_) {
                    rebuild_->change(change.name, change.block, change.add, now);
                }
            }
            round.todo.clear();
        } else if (!outcome->stale && !round.alone && !too_large(*outcome)) {
            round.alone = true;
        } else if (!outcome->stale && !round.refuse_blamed(*outcome)) {
            const int code = outcome->refusals.front().code;
            if (too_large(*outcome) && round.todo.size() > 1) {
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
    Round round{changes, results, std::vector<std::size_t>(changes.size()), {}, false};
    std::iota(round.todo.begin(), round.todo.end(), std::size_t{0});
    run(round);
    return results;
}

} // namespace egress::helper
