#include "ctl/row.h"

#include <netinet/in.h>

#include "daemon/policy/print.h"

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

/// The last column: when it was last seen, or what is left of its time.
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
    const auto protocol = protocol_name(row.protocol);
    return fmt::format("\t{}\t{}\t{}\t{}\t{}\t{}", protocol.empty() ? "*" : protocol,
                       or_dash(printable(row.name)), state_name(row), moment(row.since), until,
                       or_dash(printable(row.reason)));
}

} // namespace

std::string protocol_name(int protocol) {
    switch (protocol) {
    case 0:
        return "";
    case IPPROTO_TCP:
        return "tcp";
    case IPPROTO_UDP:
        return "udp";
    default:
        return std::to_string(protocol);
    }
}

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

std::string state_name(const store::Row& row) {
    switch (row.state) {
    case State::counting:
        return "counting";
    case State::blocked:
        if ((row.flags & store::monitor) != 0) {
            return "monitored";
        }
        return (row.flags & store::in_force) != 0 ? "blocked" : "wanted";
    case State::releasing:
        break;
    }
    return "releasing";
}

Json row_json(const store::Row& row) {
    Json json;
    json["name"] = row.name;
    json["addr"] = row.address.base.text();
    json["prefixlen"] = row.address.length;
    if (row.port != 0) {
        json["port"] = row.port;
    }
    if (row.protocol != 0) {
        json["protocol"] = protocol_name(row.protocol);
    }
    json["count"] = row.count;
    if (row.nfail != 0) {
        json["nfail"] = row.nfail;
    }
    json["state"] = state_name(row);
    if (is_blocked(row) && row.since != 0) {
        json["since"] = iso_time(row.since);
    }
    if (is_blocked(row) && ends(row)) {
        json["until"] = iso_time(row.until);
    }
    if (!row.id.empty()) {
        json["id"] = row.id;
    }
    if (!row.reason.empty()) {
        json["reason"] = row.reason;
    }
    return json;
}

std::string row_header(const RowStyle& style) {
    const auto line = fmt::format("{:>{}}/ma:port\tid\tnfail\t{}", "address", style.wide ? 39 : 15,
                                  style.remaining ? "remaining time" : "last access");
    return style.detailed ? line + "\tprotocol\tname\tstate\tsince\tuntil\treason" : line;
}

std::string row_line(const store::Row& row, const RowStyle& style, std::int64_t now) {
    // An address that needs more room than its column takes it: cut, it would be another address.
    auto line =
        fmt::format("{:>{}}/{}:{}\t{}\t{}/{}\t{}", row.address.base.text(), style.wide ? 39 : 15,
                    row.address.length, any_or(row.port), printable(row.id), row.count, limit(row),
                    time_column(row, style.remaining, now));
    return style.detailed ? line + detail_columns(row) : line;
}

} // namespace egress::ctl
