// Where the hooks' events go: a list of sinks, each of which decides by itself what it takes.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/bpf/load/loader.h"
#include "daemon/egress/event.h"
#include "daemon/store/event_counts.h"

namespace egress {

/// One event, for as long as the sinks are given it.
struct EventView {
    const egress_event& event;
    const policy::EgressRule* rule; ///< null: none matched
    const std::string& domain;      ///< by which name the rule matched; empty: none is known
    bool selftest;                  ///< made by egressctl selftest: no traffic
    const OwnerNames& names;
    const bpf::Loader* loader; ///< null: the paths of ancestors are not known
    const Clock& clock;
    mutable std::string text; ///< for json()

    /// The event as one line of JSON; made at the first call.
    const std::string& json() const;
};

class EventSink {
  public:
    virtual ~EventSink() = default;
    virtual void take(const EventView& event) = 0;
};

class EventSinks {
  public:
    /// The sink must outlive this. Sinks are given each event in the order in which they came.
    void add(EventSink& sink) { sinks_.push_back(&sink); }
    void emit(const EventView& event) const;

  private:
    std::vector<EventSink*> sinks_;
};

/// Adds events up for the database, but for those of a selftest: no line is learnt from it.
class CountsSink final : public EventSink {
  public:
    explicit CountsSink(EventCounts& counts) : counts_(counts) {}
    void take(const EventView& event) override;

  private:
    EventCounts& counts_;
};

} // namespace egress
