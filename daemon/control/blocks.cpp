#include "daemon/control/blocks.h"

#include <utility>

#include "daemon/base/fields.h"
#include "daemon/base/json_array.h"
#include "daemon/base/json_text.h"
#include "daemon/base/log.h"
#include "daemon/base/number.h"
#include "daemon/base/set_name.h"
#include "daemon/base/words.h"
#include "daemon/control/bulk.h"
#include "daemon/control/cutoff.h"
#include "daemon/control/reply.h"
#include "daemon/store/json.h"

namespace egress::verbs {

using reply::error;

namespace {

constexpr std::size_t rows_per_piece = 256;
constexpr std::size_t most_wider = 16; ///< told of those that still shut out the address
constexpr Seconds most_seconds = Seconds{100} * 366 * 24 * 60 * 60;

void read_address(Fields& fields, ManualUnblock& target) {
    const auto address = fields.text("addr");
    const auto prefix = address ? Prefix::parse(*address) : std::nullopt;
    if (!address) {
        fields.wrong("addr", "is missing");
    } else if (!prefix) {
        fields.wrong("addr", "is no address or prefix: \"" + escape(*address, 64) +
                                 "\" (host bits after the prefix length must be 0)");
    } else {
        target.address = *prefix;
    }
}

/// The fields that block and unblock share.
ManualUnblock read_target(Fields& fields, bool whole = false) {
    ManualUnblock target;
    if (whole) {
        target.all = true;
        if (fields.has("addr")) {
            fields.wrong("addr", "and \"all\" exclude each other");
        }
    } else {
        read_address(fields, target);
    }
    target.name = fields.text("name");
    if (target.name && !is_set_name(*target.name)) {
        fields.wrong("name", "is no set name (letters, digits, \"_\", \"-\", \".\")");
    }
    target.protocol = fields.protocol("protocol");
    target.port = fields.number<std::uint16_t>("port", 65535, 1);
    return target;
}

/// The text without harm to a terminal; where that is too long, its beginning and "...".
std::string reason_of(std::string_view text) {
    auto whole = escape(text, store::max_reason);
    return whole.size() <= store::max_reason ? whole : escape(text, store::max_reason - 3);
}

} // namespace

Result<ManualBlock> read_block(const nlohmann::json& body) {
    Fields fields(body);
    const auto target = read_target(fields);
    ManualBlock manual;
    manual.name = target.name.value_or("");
    manual.address = target.address;
    manual.protocol = target.protocol.value_or(0);
    manual.port = target.port.value_or(0);
    manual.seconds = fields.number<Seconds>("seconds", static_cast<std::uint64_t>(most_seconds), 1)
                         .value_or(forever);
    manual.reason = reason_of(fields.text("reason", Fields::Kind::document).value_or(""));
    const auto good = fields.good();
    return good ? Result<ManualBlock>(std::move(manual)) : std::unexpected(good.error());
}

Result<ManualUnblock> read_unblock(const nlohmann::json& body) {
    Fields fields(body);
    const auto all = fields.flag("all");
    if (all && !*all) {
        fields.wrong("all", "is true, or absent");
    }
    auto target = read_target(fields, all.value_or(false));
    const auto good = fields.good();
    return good ? Result<ManualUnblock>(std::move(target)) : std::unexpected(good.error());
}

Result<Insistence> Insistence::of(const Request& request) {
    Insistence out{request.argument("force") == "1", request.uid, std::nullopt};
    if (const auto text = request.argument("session")) {
        const auto address = Address::parse(*text);
        const auto port =
            parse_decimal<std::uint16_t>(request.argument("session_port").value_or("0"));
        if (!address || !port) {
            return fail(
                "\"session\" is an address, \"session_port\" the local port of the session");
        }
        out.session = Endpoint{*address, *port};
    }
    return out;
}

std::optional<Response> Insistence::objection(const Ledger& ledger,
                                              const ManualBlock& manual) const {
    const auto lost = cut_off(ledger, manual, session);
    if (lost.empty()) {
        return std::nullopt;
    }
    const auto all = fmt::format("{}", fmt::join(lost, "; "));
    if (force) {
        log::warning("hand", "the block of {} cuts off {}: uid {} insists", manual.address.text(),
                     all, uid);
        return std::nullopt;
    }
    return reply::good(
        {{"error", fmt::format("the block of {} would cut off {}; nothing is blocked (egressctl "
                               "--force, or force=1 in the API, blocks it nevertheless)",
                               manual.address.text(), all)},
         {"cuts_off", lost}},
        409);
}

void block(Parts& parts, const Request& request, const Answer& answer) {
    if (JsonArray::begins(request.body)) {
        return block_many(parts, request, answer);
    }
    const auto body = reply::body_of(request);
    const auto manual = body ? read_block(*body) : std::unexpected(body.error());
    if (!manual) {
        return answer.send(error(400, manual.error().text));
    }
    const auto insistence = Insistence::of(request);
    if (!insistence) {
        return answer.send(error(400, insistence.error().text));
    }
    if (const auto refusal = insistence->objection(parts.ledger, *manual)) {
        return answer.send(*refusal);
    }
    const auto row = parts.ledger.block(*manual);
    if (!row) {
        return answer.send(error(507, row.error().text));
    }
    log::info("control", "uid {} blocked {}", request.uid, manual->address.text());
    parts.keeper.when_durable([answer, text = json_text(store::row_json(*row))](bool durable) {
        answer.send(durable ? Response{201, text + "\n"} : error(500, reply::not_durable));
    });
}

void unblock(Parts& parts, const Request& request, const Answer& answer) {
    if (JsonArray::begins(request.body)) {
        return unblock_many(parts, request, answer);
    }
    const auto body = reply::body_of(request);
    const auto wanted = body ? read_unblock(*body) : std::unexpected(body.error());
    if (!wanted) {
        return answer.send(error(400, wanted.error().text));
    }
    const auto& target = *wanted;
    if (target.all) {
        return unblock_all(parts, request, answer, target);
    }
    const std::size_t removed = parts.ledger.unblock(target);
    log::notice("control", "uid {} unblocked {}: {}", request.uid, target.address.text(),
                counted(removed, "blocks"));
    auto wider = nlohmann::json::array();
    for (const auto& row : parts.ledger.covering(target, most_wider)) {
        wider.push_back(nlohmann::json(store::row_json(row)));
    }
    parts.keeper.when_durable([answer, removed, wider = std::move(wider)](bool durable) {
        answer.send(durable ? reply::good({{"removed", removed}, {"covered_by", wider}})
                            : error(500, reply::not_durable));
    });
}

/// Sends rows in pieces and visits a bounded number of rows for each, so that a million rows never
/// block the loop.
void list_blocks(Parts& parts, const Request& request, const Answer& answer) {
    const std::string state = request.argument("state").value_or("all");
    if (state != "all" && state != "blocked" && state != "counting") {
        return answer.send(error(400, "\"state\" is blocked, counting or all"));
    }
    answer.stream([&ledger = std::as_const(parts.ledger), state, next = RowId{0}, opened = false,
                   first = true, row = store::Row{}](std::string& out) mutable {
        const Table& table = ledger.table();
        if (!std::exchange(opened, true)) {
            out += '[';
        }
        RowId visited = 0;
        for (; next < table.rows_end() && visited < rows_per_piece; ++next, ++visited) {
            const bool blocked = table[next].state == store::State::blocked;
            if (!table[next].used || (state == "blocked" && !blocked) ||
                (state == "counting" && table[next].state != store::State::counting)) {
                continue;
            }
            ledger.snapshot(next, row);
            out += std::exchange(first, false) ? "\n" : ",\n";
            out += json_text(store::row_json(row));
        }
        if (next < table.rows_end()) {
            out += out.empty() ? " " : "";
            return true;
        }
        out += "\n]\n";
        return false;
    });
}

} // namespace egress::verbs
