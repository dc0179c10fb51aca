// Reads the rules on a thread of its own: a list of a million lines takes a fifth of a second, and
// the disk that it lies on may hang.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include <systemd/sd-event.h>

#include "daemon/base/loop.h"
#include "daemon/policy/parser.h"

namespace egress {

class Reader {
  public:
    using Read = std::function<policy::Parsed()>; ///< on the thread; keeps nothing of the loop's
    using Then = std::function<void(policy::Parsed&&)>; ///< in the loop

    explicit Reader(sd_event* event) : event_(event) {}
    ~Reader(); ///< does not wait for a read that hangs: it ends with the process

    /// Calls `then` with what `read` gives, in the order of the calls. Where no thread can be had
    /// it reads at once.
    void read(Read read, Then then);
    std::size_t pending() const { return thens_.size(); } ///< that have not been called yet

  private:
    struct Lane;
    bool start();
    void take_read();

    sd_event* event_;
    std::shared_ptr<Lane> lane_;
    std::deque<Then> thens_; ///< in the order of the reads; never the thread's to touch
    Source source_;
};

} // namespace egress
