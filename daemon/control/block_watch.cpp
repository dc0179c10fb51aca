#include "daemon/control/block_watch.h"

#include <algorithm>

#include <fmt/format.h>

#include "daemon/base/json_text.h"
#include "daemon/base/log.h"
#include "daemon/base/number.h"
#include "daemon/base/set_name.h"
#include "daemon/store/json.h"

namespace egress {

namespace {

constexpr std::size_t most_values = 64;

template <typename T>
bool one_of(const std::vector<T>& wanted, const T& value) {
    return wanted.empty() || std::ranges::find(wanted, value) != wanted.end();
}

std::string action_of(const BlockChange& change) {
    return change.effect == Effect::block    ? "BLOCK"
           : change.effect == Effect::extend ? "EXTEND"
                                             : "LIFT";
}

} // namespace

Result<BlockFilter> BlockFilter::of(const decltype(Request::query)& query) {
    if (query.size() > most_values) {
        return fail(fmt::format("a filter takes at most {} values", most_values));
    }
    BlockFilter filter;
    for (const auto& [column, value] : query) {
        if (auto taken = filter.take(column, value); !taken) {
            return std::unexpected(taken.error());
        }
    }
    return filter;
}

Result<> BlockFilter::take(const std::string& column, const std::string& value) {
    const auto wrong = [&](std::string_view what) {
        return fail(fmt::format("\"{}={}\": {}", escape(column, 16), escape(value, 64), what));
    };
    if (column == "action") {
        if (value != "BLOCK" && value != "EXTEND" && value != "LIFT") {
            return wrong("write BLOCK, EXTEND or LIFT");
        }
        actions_.push_back(value);
    } else if (column == "addr") {
        const auto prefix = Prefix::parse(value);
        if (!prefix) {
            return wrong("write an address or a network");
        }
        addresses_.push_back(*prefix);
    } else if (column == "port") {
        const auto port = parse_decimal<std::uint16_t>(value);
        if (!port || *port == 0) {
            return wrong("write a number from 1 to 65535");
        }
        ports_.push_back(*port);
    } else if (column == "name") {
        if (!is_set_name(value)) {
            return wrong("write the name of a rule");
        }
        names_.push_back(value);
    } else if (column != "kind") {
        return wrong("blocks have no such column");
    }
    return {};
}

/// An address passes if the block covers it or lies in it.
bool BlockFilter::passes(const BlockChange& change, const std::string& name) const {
    const auto block = change.key.prefix();
    return one_of(actions_, action_of(change)) && one_of(names_, name) &&
           (ports_.empty() || change.key.port == 0 || one_of(ports_, change.key.port)) &&
           (addresses_.empty() || std::ranges::any_of(addresses_, [&](const Prefix& one) {
                return one.length <= block.length ? one.contains(block.base)
                                                  : block.contains(one.base);
            }));
}

std::string change_json(const Ledger& ledger, const BlockChange& change) {
    nlohmann::ordered_json out = {{"time", store::iso_time(ledger.wall())},
                                  {"action", action_of(change)}};
    if (*change.why != '\0') {
        out["why"] = change.why;
    }
    store::Row row;
    if (const auto id = ledger.table().find(change.key); id != no_row) {
        ledger.snapshot(id, row);
    } else { // it is gone already
        row.name = ledger.name_text(change.key.name);
        row.address = change.key.prefix();
        row.protocol = change.key.protocol;
        row.port = change.key.port;
        row.state = store::State::releasing;
    }
    out.update(store::row_json(row));
    return json_text(out);
}

} // namespace egress
