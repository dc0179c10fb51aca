#include "daemon/watchers.h"

#include <utility>

#include <fmt/format.h>

namespace egress {

void Watchers::Watcher::tell_dropped() {
    if (dropped > 0) {
        queue += fmt::format("{{\"dropped\":{}}}\n", std::exchange(dropped, 0));
    }
}

void Watchers::Watcher::put(std::string_view line) {
    if (queue.size() + line.size() >= most_queued) {
        ++dropped;
        return;
    }
    tell_dropped();
    queue += line;
    queue += '\n';
    wake();
}

void Watchers::Watcher::take(std::string& out) {
    tell_dropped();
    out.swap(queue);
    queue.clear();
}

bool Watchers::add(const Answer& answer) {
    if (size() >= most) {
        return false;
    }
    auto watcher = std::make_shared<Watcher>();
    watchers_.push_back(watcher);
    watcher->wake = answer.feed([watcher](std::string& out) {
        watcher->take(out);
        return true;
    });
    return true;
}

void Watchers::publish(std::string_view line) {
    for (const auto& each : watchers_) {
        if (const auto watcher = each.lock()) {
            watcher->put(line);
        }
    }
}

std::size_t Watchers::size() {
    std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
    return watchers_.size();
}

} // namespace egress
