#include "daemon/control/who.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include <netinet/in.h>

#include "daemon/base/fields.h"
#include "daemon/base/json_text.h"
#include "daemon/base/log.h"
#include "daemon/base/protocol.h"
#include "daemon/base/words.h"
#include "daemon/control/blocks.h"
#include "daemon/control/reply.h"
#include "daemon/policy/print/print.h"
#include "daemon/store/json.h"

namespace egress::verbs {

using nlohmann::json;
using nlohmann::ordered_json;
using reply::error;

namespace {

constexpr std::size_t most_shown = 256; ///< rows of an answer; an address may be in many sets

/// Visits every row, a part in each turn of the loop, and then calls `done`.
void walk(Parts& parts, const Answer& answer, std::function<void(RowId)> visit,
          std::function<void()> done) {
    const auto step = [&ledger = parts.ledger, visit = std::move(visit), done = std::move(done),
                       next = RowId{0}]() mutable {
        const auto end = std::min(ledger.table().rows_end(), next + Tasks::rows);
        for (; next < end; ++next) {
            visit(next);
        }
        const bool more = next < ledger.table().rows_end();
        if (!more) {
            done();
        }
        return more;
    };
    if (!parts.tasks.begin(step)) {
        answer.send(error(503, "long requests of others are under way; try again in a moment"));
    }
}

json line_json(const policy::Rule& rule) {
    return {{"rule", rule.place.text()}, {"text", policy::print(rule)}};
}

/// The line of [remote] that exempts all of the prefix, or else one that exempts a part of it or
/// some ports; none or one.
json exemptions_of(const Ledger& ledger, const Prefix& wanted) {
    const policy::Exemptions::Target target{wanted, 0, 0};
    const auto& own = ledger.interfaces().own();
    const auto* line = ledger.exemptions().covering(target, own);
    line = line != nullptr ? line : ledger.exemptions().touching(target, own);
    return line != nullptr ? json::array({line_json(*line)}) : json::array();
}

/// What POST /v1/explain/report wants to know.
struct ReportQuestion {
    Address remote;
    Endpoint local;
    int type = SOCK_STREAM;
    int protocol = IPPROTO_TCP;
    std::uint32_t uid = 0;
};

int type_of(Fields& fields, int protocol) {
    const auto type = fields.text("type");
    if (!type) {
        return protocol == IPPROTO_UDP ? SOCK_DGRAM : SOCK_STREAM;
    }
    if (*type != "stream" && *type != "dgram") {
        fields.wrong("type", "is not stream or dgram");
    }
    return *type == "dgram" ? SOCK_DGRAM : SOCK_STREAM;
}

Result<ReportQuestion> report_question(const json& body) {
    Fields fields(body);
    ReportQuestion question;
    const auto address = [&fields](const char* key) {
        const auto text = fields.text(key);
        const auto parsed = text ? Address::parse(*text) : std::nullopt;
        if (text && !parsed) {
            fields.wrong(key, "is no address: \"" + escape(*text, 64) + "\"");
        }
        return parsed;
    };
    const auto remote = address("addr");
    if (!remote) {
        fields.wrong("addr", "is missing");
    }
    question.remote = remote.value_or(Address());
    question.local.address = address("local").value_or(Address());
    const auto port = fields.number<std::uint16_t>("port", 65535, 1);
    if (!fields.has("port")) {
        fields.wrong("port", "is missing");
    }
    question.local.port = port.value_or(0);
    question.protocol =
        fields.protocol("protocol")
            .value_or(fields.has("type") && fields.text("type") == "dgram" ? IPPROTO_UDP
                                                                           : IPPROTO_TCP);
    question.type = type_of(fields, question.protocol);
    question.uid = fields.number<std::uint32_t>("uid", 0xfffffffe).value_or(0);
    const auto good = fields.good();
    return good ? Result<ReportQuestion>(question) : std::unexpected(good.error());
}

ordered_json explanation(const Ledger& ledger, const ReportQuestion& question,
                         const policy::EffectiveRule& rule) {
    ordered_json out = {{"action", rule.limited ? "counted" : "exempt"},
                        {"name", ledger.name_text(rule.name)},
                        {"counted", rule.counted.text()},
                        {"local", line_json(*rule.local)}};
    if (rule.remote != nullptr) {
        out["remote"] = line_json(*rule.remote);
    }
    if (rule.limited) {
        out["nfail"] = rule.nfail;
        if (rule.disable != forever) {
            out["seconds"] = rule.disable;
        }
    }
    const auto& table = ledger.table();
    auto id = table.find(Ledger::block_key_of(rule, question.protocol, question.local.port));
    if (id == no_row || table[id].state == store::State::counting) {
        id = table.find(Ledger::key_of(rule, question.protocol, question.local.port));
    }
    if (id != no_row) {
        store::Row row;
        ledger.snapshot(id, row);
        out["row"] = store::row_json(row);
    }
    return out;
}

/// True if a line for a local address or an interface might decide, which the question left out.
bool depends_on_local(const policy::Policy& policy, const ReportQuestion& question) {
    return question.local.address.is_unspecified() &&
           std::ranges::any_of(policy.local, [&](const policy::Rule& line) {
               return (line.location.prefix || !line.location.interface.empty()) &&
                      line.location.port.value_or(question.local.port) == question.local.port;
           });
}

} // namespace

void which(Parts& parts, const Request& request, const Answer& answer) {
    const auto text = request.argument("addr");
    const auto wanted = text ? Prefix::parse(*text) : std::nullopt;
    if (!wanted || request.query.size() != 1) {
        return answer.send(
            error(400, "give one \"addr\", an address or a prefix without host bits"));
    }
    struct Found {
        ordered_json blocks = json::array();
        ordered_json counts = json::array();
    };
    const auto found = std::make_shared<Found>();
    const auto visit = [&ledger = parts.ledger, found, wanted = *wanted](RowId id) {
        const auto& row = ledger.table()[id];
        if (ledger.row_covers(row, wanted)) {
            auto& list = row.state == store::State::counting ? found->counts : found->blocks;
            if (list.size() < most_shown) {
                store::Row shown;
                ledger.snapshot(id, shown);
                list.push_back(store::row_json(shown));
            }
        }
    };
    const auto done = [&ledger = parts.ledger, found, wanted = *wanted, answer] {
        const ordered_json out = {{"addr", wanted.text()},
                                  {"exemptions", exemptions_of(ledger, wanted)},
                                  {"blocks", found->blocks},
                                  {"counts", found->counts}};
        answer.send({200, json_text(out) + "\n"});
    };
    walk(parts, answer, visit, done);
}

void forget(Parts& parts, const Request& request, const Answer& answer) {
    const auto body = reply::body_of(request);
    const auto read = body ? read_unblock(*body) : std::unexpected(body.error());
    if (!read) {
        return answer.send(error(400, read.error().text));
    }
    struct Forgotten {
        std::size_t rows = 0;
        std::size_t lifted = 0;
    };
    const auto forgotten = std::make_shared<Forgotten>();
    const auto visit = [&ledger = parts.ledger, forgotten, wanted = *read](RowId id) {
        const auto& row = ledger.table()[id];
        auto exact = wanted;
        exact.address = row.key.prefix(); // what lies inside goes, too
        if ((wanted.all || ledger.covers_row(wanted.address, row)) && ledger.selects(exact, row)) {
            const bool blocked = row.state == store::State::blocked;
            ledger.forget_by_hand(id);
            forgotten->rows += 1;
            forgotten->lifted += blocked ? 1 : 0;
        }
    };
    const auto done = [&parts, forgotten, answer, uid = request.uid,
                       what = read->all ? "everything" : read->address.text()] {
        log::notice("control", "uid {} forgot {}: {}, {} lifted", uid, what,
                    counted(forgotten->rows, "rows"), counted(forgotten->lifted, "blocks"));
        parts.keeper.when_durable([answer, forgotten](bool durable) {
            answer.send(durable ? reply::good({{"forgotten", forgotten->rows},
                                               {"lifted", forgotten->lifted}})
                                : error(500, "done, but the database cannot be written, so it "
                                             "would not outlive a restart"));
        });
    };
    walk(parts, answer, visit, done);
}

void explain_report(Parts& parts, const Request& request, const Answer& answer) {
    const auto body = reply::body_of(request);
    const auto question = body ? report_question(*body) : std::unexpected(body.error());
    if (!question) {
        return answer.send(error(400, question.error().text));
    }
    const auto& ledger = parts.ledger;
    const auto rule = ledger.rule_for(question->local, question->remote, question->type,
                                      question->protocol, question->uid);
    auto out = rule ? explanation(ledger, *question, *rule) : ordered_json{{"action", "ignored"}};
    out["depends_on_local"] = depends_on_local(ledger.policy(), *question);
    answer.send({200, json_text(out) + "\n"});
}

} // namespace egress::verbs
