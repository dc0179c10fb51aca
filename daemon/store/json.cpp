#include "daemon/store/json.h"

#include "daemon/base/protocol.h"
#include "lib/utf8.h"

#include <ctime>

#include <fmt/format.h>
#include <netinet/in.h>

namespace egress::store {

namespace {

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const auto character = utf8::first(text);
        if (character.length == 0) {
            return false;
        }
        text.remove_prefix(character.length);
    }
    return true;
}

std::string hex(std::string_view bytes) {
    std::string out;
    for (const char byte : bytes) {
        out += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    }
    return out;
}

} // namespace

nlohmann::ordered_json row_json(const Row& row) {
    const bool blocked = row.state == State::blocked;
    nlohmann::ordered_json out;
    out["name"] = row.name;
    out["addr"] = row.address.base.text();
    out["prefixlen"] = row.address.length;
    if (row.port != 0) {
        out["port"] = row.port;
    }
    if (row.protocol != 0) {
        out["protocol"] = protocol_name(row.protocol, "");
    }
    out["count"] = row.count;
    if (row.nfail != 0) {
        out["nfail"] = row.nfail;
    }
    out["state"] = state_name(row);
    if (blocked && row.since != 0) {
        out["since"] = iso_time(row.since);
    }
    if (blocked && row.until != 0 && row.until != until_forever) {
        out["until"] = iso_time(row.until);
    }
    if (!row.id.empty()) {
        out["id"] = row.id;
    }
    if (!row.reason.empty()) {
        out["reason"] = row.reason;
    }
    return out;
}

nlohmann::ordered_json event_json(const EventRow& row) {
    nlohmann::ordered_json out;
    out["action"] = name_of(row.action);
    if (!row.rule.empty()) {
        out["rule"] = row.rule;
    }
    out["uid"] = row.uid;
    out["gid"] = row.gid;
    out["exe"] = row.program;
    if (!is_utf8(row.program)) { // else the text has other characters in place of some bytes
        out["exe_hex"] = hex(row.program);
    }
    for (const auto& [name, flag] : event_flags) {
        if ((row.flags & flag) != 0) {
            out[std::string(name)] = true;
        }
    }
    out["type"] = row.type;
    out["protocol"] = protocol_name(row.protocol, "*");
    if (row.address) {
        out["addr"] = row.address->text();
    }
    if (row.port != 0) {
        out["port"] = row.port;
    }
    out["count"] = row.count;
    out["first"] = iso_time(row.first);
    out["last"] = iso_time(row.last);
    return out;
}

std::string_view state_name(const Row& row) {
    switch (row.state) {
    case State::counting:
        return "counting";
    case State::releasing:
        return "releasing";
    case State::blocked:
        break;
    }
    if ((row.flags & monitor) != 0) {
        return "monitored";
    }
    return (row.flags & in_force) != 0 ? "blocked" : "wanted";
}

std::string iso_time(std::int64_t wall) {
    const std::time_t seconds = wall;
    std::tm parts{};
    if (gmtime_r(&seconds, &parts) == nullptr) {
        return "-";
    }
    char text[64];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

} // namespace egress::store
