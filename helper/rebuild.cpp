// Rebuild, and the part of Table that does it.
#include "helper/rebuild.h"

#include <algorithm>
#include <utility>

#include <linux/netfilter/nf_tables.h>

#include "helper/shelf.h"
#include "helper/table.h"

namespace egress::helper {

namespace {

/// A piece takes the kernel some 5 ms: for so long a new block may have to wait.
constexpr std::size_t most_in_piece = 2048;
/// Commits of others that may come before a piece. A refusal for that costs nearly nothing.
constexpr int most_attempts = 256;

} // namespace

Rebuild::Rebuild(std::string of, const std::vector<Block>& wanted, std::int64_t now)
    : name(std::move(of)) {
    wishes.reserve(wanted.size());
    for (const Block& block : wanted) {
        wishes.push_back({block, true, now});
    }
}

void Rebuild::change(const std::string& of, const Block& block, bool there, std::int64_t now) {
    if (of == name) {
        wishes.push_back({block, there, now}); // left alone, unless all is done again
    }
}

void Rebuild::take(Memory& done, std::int64_t now) {
    while (left > 0 && piece.size() < most_in_piece) {
        auto [block, there, at] = wishes[--left];
        if (done.settled(name, block.target)) {
            continue; // a later line, or a request meanwhile, decided
        }
        const auto passed = static_cast<std::uint64_t>(now - at) / 1000;
        there = there && (block.seconds == for_ever || block.seconds > passed);
        if (block.seconds != for_ever && there) {
            block.seconds -= passed;
        }
        done.note(name, block, there, now);
        if (there) {
            piece.push_back(block);
        }
    }
}

bool Table::large(const std::string& name, std::size_t blocks) const {
    return blocks > most_at_once && !memory_.knows(name);
}

void Table::begin_rebuild(const std::string& name, const std::vector<Block>& wanted) {
    rebuild_.emplace(name, wanted, kernel_now());
}

/// Begins, also again if another program has changed our table: then nothing is known of the sets.
void Table::restart_rebuild() {
    Rebuild& work = *rebuild_;
    work.begun = true;
    work.left = work.wishes.size();
    work.piece.clear();
    work.olds.clear();
    work.leftovers.clear();
    work.added = 0;
    for (const auto& [set, known] : layout_.sets) {
        if (known.id.name != work.name || !known.fits) {
            continue;
        }
        if (layout_.placed(known.id) == known.id) {
            work.olds.insert(set);
        } else {
            work.leftovers.push_back(set);
        }
    }
    work.counts = work.olds.empty();
    memory_.learn(work.name, {}, kernel_now());
    memory_.expect(work.name, work.wishes.size());
}

Result<> Table::write_piece(Batch& batch) {
    put_base(batch, layout_);
    write_exemptions(batch);
    for (const std::string& set : rebuild_->leftovers) {
        if (layout_.sets.contains(set)) {
            drop_set(batch, layout_, set);
        }
    }
    for (const auto& [key, shelf] : shelve(layout_, rebuild_->name, rebuild_->piece)) {
        const bool replaces = rebuild_->replaces(shelf.name);
        const SetId set = replaces ? other_turn(shelf.set) : shelf.set;
        const std::string name = set_name(set);
        if (!fits(name)) {
            return std::unexpected(foreign(name));
        }
        if (replaces) {
            put_standby(batch, layout_, set, Batch::shared);
        } else {
            put_set(batch, layout_, set, Batch::shared);
        }
        ElementWriter writer(batch, NFT_MSG_NEWSETELEM, name);
        for (const Block* block : shelf.items) {
            const Lifetime lifetime{block->seconds, renews_, 0, 0};
            writer.put(block->target, &lifetime);
        }
    }
    return {};
}

/// The sets that were filled take the place of those in force.
void Table::write_turn(Batch& batch) {
    for (const std::string& set : rebuild_->olds) {
        const auto known = layout_.sets.find(set);
        if (known == layout_.sets.end()) {
            continue;
        }
        const SetId next = other_turn(known->second.id);
        if (layout_.sets.contains(set_name(next))) {
            put_set(batch, layout_, next, Batch::shared);
        }
        drop_set(batch, layout_, set);
    }
}

Result<bool> Table::rebuild_piece() {
    Rebuild& work = *rebuild_;
    if (auto ready = refresh(); !ready) {
        return std::unexpected(ready.error());
    }
    if (!work.begun || !memory_.knows(work.name)) {
        restart_rebuild();
    }
    if (work.piece.empty()) {
        work.take(memory_, kernel_now());
    }
    const bool last = work.piece.empty();
    Batch batch = begin(0);
    if (last) {
        write_turn(batch);
    } else if (auto written = write_piece(batch); !written) {
        return std::unexpected(written.error());
    }
    const auto outcome = finish(batch);
    if (!outcome) {
        return std::unexpected(outcome.error());
    }
    if (outcome->committed()) {
        work.added += work.piece.size();
        work.piece.clear();
        work.leftovers.clear();
        work.attempts = 0;
        return last;
    }
    if (!outcome->stale) {
        return std::unexpected(
            kernel_error("cannot sync " + work.name, outcome->refusals.front().code));
    }
    if (++work.attempts >= most_attempts) {
        return std::unexpected(disturbed());
    }
    return false;
}

Result<std::optional<Synced>> Table::rebuild_step() {
    const auto done = rebuild_piece();
    if (!done) {
        memory_.forget(); // what was filled is not in force
        layout_.changed = true;
        rebuild_.reset();
        return std::unexpected(done.error());
    }
    if (!*done) {
        return std::nullopt;
    }
    const Synced synced{rebuild_->counts ? rebuild_->added : 0, 0};
    rebuild_.reset();
    return synced;
}

} // namespace egress::helper
