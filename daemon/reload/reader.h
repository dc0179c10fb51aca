// Reads the rules on its own thread: a list of a million lines takes a fifth of a second, and its
// disk may hang.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include <systemd/sd-event.h>

#include "daemon/base/loop.h"
#include "daemon/policy/parser.h"

namespace egress {

class RulesReader {
  public:
    /// Runs on the thread; must not use the loop's data.
    using Read = std::function<policy::Parsed()>;
    using Then = std::function<void(policy::Parsed&&)>; ///< runs in the loop

    explicit RulesReader(sd_event* event) : event_(event) {}
    ~RulesReader(); ///< does not wait for a hanging read, which ends with the process

    /// Calls `then` with the result of `read`, in the order of the calls. Without a thread it reads
    /// at once.
    void read(Read read, Then then);
    std::size_t pending() const {
        return thens_.size();
    } ///< reads still to be passed to their `then`

  private:
    struct Lane;
    bool start();
    void take_read();

    sd_event* event_;
    std::shared_ptr<Lane> lane_;
    std::deque<Then> thens_; ///< in the order of the reads; only the loop uses it
    Source source_;
};

} // namespace egress
