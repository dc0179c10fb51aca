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

Shares::Room Watchers::add(const Answer& answer, std::uint32_t uid, EventFilter filter) {
    Shares shares(limits);
    for (const auto& each : watchers_) {
        if (const auto there = each.lock()) {
            shares.enter(there->uid);
        }
    }
    if (const auto room = shares.room(uid); room != Shares::Room::yes) {
        return room;
    }
    auto watcher = std::make_shared<Watcher>();
    watcher->uid = uid;
    watcher->filter = std::move(filter);
    watchers_.push_back(watcher);
    watcher->wake = answer.feed([watcher](std::string& out) {
        watcher->take(out);
        return true;
    });
    return Shares::Room::yes;
}

void Watchers::take(const EventView& event) {
    for (const auto& each : watchers_) {
        const auto watcher = each.lock();
        if (watcher && watcher->filter.passes(event.event, event.rule)) {
            watcher->put(event.json());
        }
    }
}

std::size_t Watchers::size() {
    std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
    return watchers_.size();
}

} // namespace egress
