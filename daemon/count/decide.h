// The decision: (rule, count, report, now) -> (new count, effect).
//
// Pure: no clock, no table, no firewall. It computes every change of a row by a report or a
// deadline.
#pragma once

#include <cstdint>

#include "daemon/base/clock.h"
#include "daemon/count/report.h"
#include "daemon/count/table.h"
#include "daemon/policy/login/match.h"
#include "daemon/store/records.h"

namespace egress {

/// The part of a row that a decision reads and writes.
struct Count {
    store::State state = store::State::counting;
    bool by_hand = false;
    std::uint32_t count = 0;
    std::uint16_t strikes = 0;
    Moment last = 0;
    Moment since = 0;     ///< of the block; 0: none
    Moment until = never; ///< blocked: end of the block; counting: when the row is deleted
};

enum class Effect : std::uint8_t {
    none,   ///< only the count changed
    block,  ///< a block begins
    extend, ///< an existing block now ends later
    lift,   ///< the block ends now
    forget, ///< the row can be deleted
};

struct RowChange {
    Count next;
    Effect effect = Effect::none;
};

/// `past` is the row's failure history; read and updated if the rule has a window, else ignored.
RowChange decide(const policy::EffectiveRule& rule, const Count& now_counted, Past& past,
                 Action action, Moment now);

/// The outcome for a row whose `until` has passed.
RowChange expire(const Count& counted);

/// The outcome for a releasing row once the firewall has confirmed the removal of the block.
RowChange released(const Count& counted, Moment now);

/// Time of the block that follows `strikes` (>= 1) blocks under this rule; `forever` for "*".
Seconds block_time(const policy::EffectiveRule& rule, std::uint16_t strikes);

} // namespace egress
