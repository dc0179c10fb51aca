#include "daemon/control/tasks.h"

#include <utility>

namespace egress {

bool Tasks::begin(Piece piece) {
    if (tasks_.size() >= most) {
        return false;
    }
    if (!timer_) {
        auto timer = call_after(
            event_, 0, [this] { turn(); }, 1);
        if (!timer) {
            return false;
        }
        timer_ = std::move(*timer);
    } else if (tasks_.empty()) {
        call_again(timer_, 0);
    }
    tasks_.push_back(std::move(piece));
    return true;
}

/// One piece of one task: with many tasks a turn is as short as with one.
void Tasks::turn() {
    if (tasks_.empty()) {
        return;
    }
    auto piece = std::move(tasks_.front());
    tasks_.pop_front();
    if (piece()) {
        tasks_.push_back(std::move(piece));
    }
    if (!tasks_.empty()) {
        call_again(timer_, 0);
    }
}

} // namespace egress
