// How often something happens in a second.
#pragma once

#include <cstdint>

namespace egress {

class Rate {
  public:
    /// Once more, at this time in monotonic milliseconds; how often since its second began.
    int count(std::int64_t now) {
        if (now - since_ >= 1000) {
            since_ = now;
            times_ = 0;
        }
        return ++times_;
    }

  private:
    std::int64_t since_ = 0;
    int times_ = 0;
};

} // namespace egress
