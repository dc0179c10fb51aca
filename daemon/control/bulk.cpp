#include "daemon/control/bulk.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "daemon/base/json_array.h"
#include "daemon/base/log.h"
#include "daemon/base/words.h"
#include "daemon/control/blocks.h"
#include "daemon/control/reply.h"

namespace egress::verbs {

using reply::error;

namespace {

constexpr std::size_t entries_per_piece = 256;
constexpr const char* too_busy = "long requests of others are under way; try again in a moment";

/// A task with a state of its own; without room for it the peer is told.
template <typename State>
void begin(Parts& parts, const Answer& answer, std::shared_ptr<State> state) {
    if (!parts.tasks.begin([state] { return state->piece(); })) {
        answer.send(error(503, too_busy));
    }
}

/// Reads the entries of a request, all of them before the first is applied.
template <typename Entry>
class Entries {
  public:
    using Read = Result<Entry> (*)(const nlohmann::json&);
    Entries(const Request& request, Read read) : array_(request.body), read_(read) {}

    /// True: more is left to read.
    Result<bool> read_piece() {
        for (std::size_t i = 0; i < entries_per_piece; ++i) {
            auto value = array_.next();
            if (value && !*value) {
                array_ = JsonArray({});
                return false;
            }
            auto entry = !value                  ? std::unexpected(value.error())
                         : (*value)->is_object() ? read_(**value)
                                                 : Result<Entry>(fail("it is not a JSON object"));
            if (!entry) {
                return fail(fmt::format("entry {}: {}", array_.number(), entry.error().text));
            }
            list.push_back(std::move(*entry));
        }
        return true;
    }

    std::vector<Entry> list;

  private:
    JsonArray array_;
    Read read_;
};

class BlockMany {
  public:
    BlockMany(Parts& parts, const Request& request, Answer answer, Insistence insistence)
        : parts_(parts), answer_(std::move(answer)), insistence_(std::move(insistence)),
          entries_(request, read_block) {}

    bool piece() {
        if (reading_) {
            const auto more = entries_.read_piece();
            if (!more) {
                answer_.send(error(400, more.error().text));
                return false;
            }
            reading_ = *more;
            return true;
        }
        if (checked_ < entries_.list.size()) {
            return check_piece();
        }
        const auto end = std::min(entries_.list.size(), done_ + entries_per_piece);
        for (; done_ < end; ++done_) {
            if (const auto row = parts_.ledger.make_block(entries_.list[done_]); !row) {
                finish(row.error().text);
                return false;
            }
        }
        if (done_ < entries_.list.size()) {
            return true;
        }
        finish({});
        return false;
    }

  private:
    /// Refuses the whole list for an entry that cuts off what its asker needs.
    bool check_piece() {
        const auto end = std::min(entries_.list.size(), checked_ + entries_per_piece);
        for (; checked_ < end; ++checked_) {
            if (auto refusal = insistence_.objection(parts_.ledger, entries_.list[checked_])) {
                answer_.send(*refusal);
                return false;
            }
        }
        return true;
    }

    /// `why`: the entry that could not be taken, and nothing after it was.
    void finish(const std::string& why) {
        const auto all = entries_.list.size();
        log::notice("hand", "uid {} blocked {} of {} addresses of a list", insistence_.uid, done_,
                    all);
        parts_.keeper.when_durable([answer = answer_, done = done_, all, why](bool durable) {
            answer.send(!why.empty()
                            ? error(507, fmt::format("{} of {} are blocked, the rest not: {}", done,
                                                     all, why))
                        : durable ? reply::good({{"blocked", done}}, 201)
                                  : error(500, reply::not_durable));
        });
    }

    Parts& parts_;
    Answer answer_;
    Insistence insistence_;
    Entries<ManualBlock> entries_;
    std::size_t checked_ = 0;
    std::size_t done_ = 0;
    bool reading_ = true;
};

/// One walk over the rows lifts whatever any of the selections wants.
class UnblockMany {
  public:
    UnblockMany(Parts& parts, const Request& request, Answer answer)
        : parts_(parts), answer_(std::move(answer)), uid_(request.uid),
          entries_(request, read_unblock) {}
    UnblockMany(Parts& parts, const Request& request, Answer answer, ManualUnblock all)
        : UnblockMany(parts, request, std::move(answer)) {
        all_ = std::move(all);
        reading_ = false;
    }

    bool piece() {
        if (reading_) {
            const auto more = entries_.read_piece();
            if (!more) {
                answer_.send(error(400, more.error().text));
                return false;
            }
            reading_ = *more;
            if (!reading_) {
                std::ranges::sort(entries_.list, {}, &ManualUnblock::address);
            }
            return true;
        }
        auto& ledger = parts_.ledger;
        const auto end = std::min(ledger.table().rows_end(), next_ + Tasks::rows);
        for (; next_ < end; ++next_) {
            lifted_ += wants(next_) && ledger.lift_by_hand(next_) ? 1 : 0;
        }
        if (next_ < ledger.table().rows_end()) {
            return true;
        }
        log::notice("control", "uid {} lifted {} {}", uid_, counted(lifted_, "blocks"),
                    all_ ? "at once" : "by a list");
        parts_.keeper.when_durable([answer = answer_, removed = lifted_](bool durable) {
            answer.send(durable ? reply::good({{"removed", removed}})
                                : error(500, reply::not_durable));
        });
        return false;
    }

  private:
    bool wants(RowId id) const {
        const auto& row = parts_.ledger.table()[id];
        if (!row.used || row.state != store::State::blocked) {
            return false;
        }
        if (all_) {
            return parts_.ledger.selects(*all_, row);
        }
        const auto some =
            std::ranges::equal_range(entries_.list, row.key.prefix(), {}, &ManualUnblock::address);
        return std::ranges::any_of(
            some, [&](const ManualUnblock& one) { return parts_.ledger.selects(one, row); });
    }

    Parts& parts_;
    Answer answer_;
    std::uint32_t uid_;
    Entries<ManualUnblock> entries_;
    std::optional<ManualUnblock> all_;
    RowId next_ = 0;
    std::size_t lifted_ = 0;
    bool reading_ = true;
};

} // namespace

void block_many(Parts& parts, const Request& request, const Answer& answer) {
    auto insistence = Insistence::of(request);
    if (!insistence) {
        return answer.send(error(400, insistence.error().text));
    }
    begin(parts, answer,
          std::make_shared<BlockMany>(parts, request, answer, std::move(*insistence)));
}

void unblock_many(Parts& parts, const Request& request, const Answer& answer) {
    begin(parts, answer, std::make_shared<UnblockMany>(parts, request, answer));
}

void unblock_all(Parts& parts, const Request& request, const Answer& answer,
                 const ManualUnblock& wanted) {
    begin(parts, answer, std::make_shared<UnblockMany>(parts, request, answer, wanted));
}

} // namespace egress::verbs
