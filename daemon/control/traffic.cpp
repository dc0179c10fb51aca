#include "daemon/control/traffic.h"

#include <algorithm>

#include <fmt/format.h>

#include "daemon/base/json_text.h"
#include "daemon/control/reply.h"
#include "daemon/store/json.h"

namespace egress::verbs {

namespace {

constexpr std::size_t rows_per_piece = 256;

/// The answer: an object whose last member is the array of rows.
Producer pieces_of(const Keeper::Events& events) {
    return [events, next = std::size_t{0}](std::string& out) mutable {
        const auto& rows = events->rows;
        if (next == 0) {
            out += fmt::format("{{\"damaged\":{},\"rows\":[", events->damaged);
        }
        const std::size_t end = std::min(rows.size(), next + rows_per_piece);
        for (; next < end; ++next) {
            out += next == 0 ? "\n" : ",\n";
            out += json_text(store::event_json(rows[next]));
        }
        if (next < rows.size()) {
            return true;
        }
        out += "\n]}\n";
        return false;
    };
}

} // namespace

void show_traffic(Parts& parts, const Request&, const Answer& answer) {
    const auto done = [answer](const Keeper::Events& events) {
        if (!events->error.empty()) {
            return answer.send(reply::error(503, events->error));
        }
        answer.stream(pieces_of(events));
    };
    if (!parts.keeper.read_events(done)) {
        answer.send(reply::error(503, "too many ask for the traffic; try again"));
    }
}

} // namespace egress::verbs
