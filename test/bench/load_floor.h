// The least that any receiver of reports must do, for comparison.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include <sys/types.h>

namespace egress::bench {

/// A child that accepts, receives many messages at a time, asks each descriptor for both its names
/// and closes it; and does nothing else.
class FloorReceiver {
  public:
    explicit FloorReceiver(const std::string& path);
    ~FloorReceiver();
    FloorReceiver(const FloorReceiver&) = delete;
    FloorReceiver& operator=(const FloorReceiver&) = delete;

    std::uint64_t taken() const { return taken_->load(); }
    pid_t pid() const { return pid_; }

  private:
    void run(int listener);

    std::atomic<std::uint64_t>* taken_; // shared with the child
    pid_t pid_ = -1;
};

} // namespace egress::bench
