#include "daemon/control/watchers.h"

#include <utility>

#include <fmt/format.h>

namespace egress {

void Watchers::Watcher::emit_dropped() {
    if (dropped > 0) {
        queue += fmt::format("{{\"dropped\":{}}}\n", std::exchange(dropped, 0));
    }
}

void Watchers::Watcher::put(std::string_view line) {
    if (queue.size() + line.size() >= most_queued) {
        ++dropped;
        return;
    }
    emit_dropped();
    queue += line;
    queue += '\n';
    wake();
}

void Watchers::Watcher::take(std::string& out) {
    emit_dropped();
    out.swap(queue);
    queue.clear();
}

Shares::Room Watchers::add(const Answer& answer, std::shared_ptr<Watcher> watcher) {
    Shares shares(limits);
    for (const auto& each : watchers_) {
        if (const auto there = each.lock()) {
            shares.enter(there->uid);
        }
    }
    if (const auto room = shares.room(watcher->uid); room != Shares::Room::yes) {
        return room;
    }
    watchers_.push_back(watcher);
    watcher->wake = answer.feed([watcher](std::string& out) {
        watcher->take(out);
        return true;
    });
    return Shares::Room::yes;
}

Shares::Room Watchers::add(const Answer& answer, std::uint32_t uid, EventFilter filter) {
    auto watcher = std::make_shared<Watcher>();
    watcher->uid = uid;
    watcher->events = std::move(filter);
    return add(answer, std::move(watcher));
}

Shares::Room Watchers::add(const Answer& answer, std::uint32_t uid, BlockFilter filter,
                           Ledger& ledger) {
    auto watcher = std::make_shared<Watcher>();
    watcher->uid = uid;
    watcher->blocks = std::move(filter);
    const auto room = add(answer, std::move(watcher));
    if (room == Shares::Room::yes) {
        ledger.watch_blocks(true);
    }
    return room;
}

void Watchers::take(const EventView& event) {
    for (const auto& each : watchers_) {
        const auto watcher = each.lock();
        if (watcher && watcher->events && watcher->events->passes(event.event, event.rule)) {
            watcher->put(event.json());
        }
    }
}

void Watchers::pump(Ledger& ledger) {
    if (!ledger.watches_blocks()) {
        return;
    }
    std::vector<std::shared_ptr<Watcher>> watching;
    for (const auto& each : watchers_) {
        if (auto watcher = each.lock(); watcher && !watcher->events) {
            watching.push_back(std::move(watcher));
        }
    }
    if (watching.empty()) {
        ledger.watch_blocks(false);
        return;
    }
    while (const auto change = ledger.next_change()) {
        std::string line;
        for (const auto& watcher : watching) {
            if (watcher->blocks.passes(*change, ledger.name_text(change->key.name))) {
                line = line.empty() ? change_json(ledger, *change) : line;
                watcher->put(line);
            }
        }
    }
    if (const auto missed = ledger.take_missed_changes(); missed > 0) {
        for (const auto& watcher : watching) {
            watcher->dropped += missed;
            watcher->wake();
        }
    }
}

std::size_t Watchers::size() {
    std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
    return watchers_.size();
}

} // namespace egress
