#include "ctl/row.h"

#include "daemon/base/protocol.h"
#include "daemon/policy/text/number.h"
#include "daemon/store/json.h"

namespace egress::ctl {

namespace {

using store::State;

bool is_blocked(const store::Row& row) {
    return row.state == State::blocked;
}

bool ends(const store::Row& row) {
    return row.until != 0 && row.until != store::until_forever;
}

std::string limit(const store::Row& row) {
    return row.nfail == 0 ? "*" : fmt::format("{}", row.nfail);
}

std::string any_or(std::uint32_t number) {
    return number == 0 ? "*" : fmt::format("{}", number);
}

std::string or_dash(std::string text) {
    return text.empty() ? "-" : text;
}

/// The last column: the last access, or the remaining time.
std::string time_column(const store::Row& row, bool remaining, std::int64_t now) {
    if (!remaining) {
        return row.last == 0 ? "-" : local_time(row.last);
    }
    const bool over = row.state == State::releasing || (ends(row) && row.until <= now);
    if (over || row.until == store::until_forever) {
        return over ? "expired" : "never";
    }
    return row.until == 0 ? "-" : policy::print_duration(row.until - now);
}

std::string detail_columns(const store::Row& row) {
    const auto moment = [](std::uint32_t seconds) {
        return seconds == 0 ? std::string("-") : local_time(seconds);
    };
    const auto until = row.until == store::until_forever ? "never" : moment(row.until);
    const auto protocol = protocol_name(row.protocol, "*");
    return fmt::format("\t{}\t{}\t{}\t{}\t{}\t{}", protocol, or_dash(printable(row.name)),
                       store::state_name(row), moment(row.since), until,
                       or_dash(printable(row.reason)));
}

} // namespace

bool is_forgotten(const store::Row& row, std::int64_t now) {
    return row.state == State::counting && ends(row) && row.until <= now;
}

store::Row as_of(store::Row row, std::int64_t now) {
    if (is_forgotten(row, now)) {
        row.count = 0;
    } else if (is_blocked(row) && ends(row) && row.until <= now) {
        row.state = State::releasing;
        row.count = 0;
    }
    if (!is_blocked(row)) {
        row.since = 0;
        row.id.clear();
    }
    return row;
}

std::string row_header(const RowStyle& style) {
    const auto line = fmt::format("{:>{}}/ma:port\tid\tnfail\t{}", "address", style.wide ? 39 : 15,
                                  style.remaining ? "remaining time" : "last access");
    return style.detailed ? line + "\tprotocol\tname\tstate\tsince\tuntil\treason" : line;
}

std::string row_line(const store::Row& row, const RowStyle& style, std::int64_t now) {
    // An address wider than its column overflows it: truncated, it would be another address.
    auto line =
        fmt::format("{:>{}}/{}:{}\t{}\t{}/{}\t{}", row.address.base.text(), style.wide ? 39 : 15,
                    row.address.length, any_or(row.port), printable(row.id), row.count, limit(row),
                    time_column(row, style.remaining, now));
    return style.detailed ? line + detail_columns(row) : line;
}

} // namespace egress::ctl
