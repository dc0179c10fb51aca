#include "daemon/control/kernel.h"

#include "daemon/base/fields.h"
#include "daemon/base/log.h"
#include "daemon/control/question.h"
#include "daemon/control/reply.h"

namespace egress::verbs {

using nlohmann::json;
using reply::error;
using reply::good;

void detach(Parts& parts, const Request& request, const Answer& answer) {
    log::notice("control", "uid {} detaches the kernel side", request.uid);
    parts.enforcer.detach([answer](const Result<std::size_t>& removed) {
        answer.send(removed ? good({{"removed", *removed}}) : error(500, removed.error().text));
    });
}

void explain(Parts& parts, const Request& request, const Answer& answer) {
    const auto body = reply::body_of(request);
    auto question = body ? question_of(*body) : std::unexpected(body.error());
    if (!question) {
        return answer.send(error(400, question.error().text));
    }
    parts.enforcer.explain(std::move(*question), [answer](const Reply& found) {
        answer.send(found ? Response{200, found.text + "\n"}
                          : error(reply::status_of(found.answered, 503), found.text));
    });
}

void selftest(Parts& parts, const Request& request, const Answer& answer) {
    const auto body = reply::body_of(request);
    if (!body) {
        return answer.send(error(400, body.error().text));
    }
    Fields fields(*body);
    const auto started = fields.number<std::uint64_t>("started", ~std::uint64_t{0});
    const bool only_note = fields.flag("prepare").value_or(false);
    if (!fields.has("started")) {
        fields.wrong("started", "is missing (clock ticks since boot)");
    }
    if (const auto read = fields.good(); !read) {
        return answer.send(error(400, read.error().text));
    }
    auto& enforcer = parts.enforcer;
    const auto marked =
        request.pid == 0
            ? Reply{Answered::no_process, "your process is not seen from egressd's pid namespace"}
            : enforcer.mark_canary(request.pid, *started, only_note);
    if (!marked) {
        return answer.send(error(reply::status_of(marked.answered, 409), marked.text));
    }
    if (!only_note) {
        log::info("control", "uid {} tests the hooks", request.uid);
    }
    const auto* const loader = enforcer.loader();
    const auto status = enforcer.status();
    const auto process = loader->process(loader->settings().canary);
    json hooks = json::object();
    for (const auto& hook : status.coverage) {
        hooks[hook.hook] = hook.attached ? "attached" : hook.why;
    }
    json hidden = json::array();
    for (const auto& each : status.hidden) {
        hidden.push_back({{"what", each.what}, {"advice", each.advice}});
    }
    answer.send(good({{"seconds", EGRESS_CANARY_TIME / 1'000'000'000},
                      {"cgroup", enforcer.options().cgroup},
                      {"state", Enforcer::text(status.state)},
                      {"generation", status.kernel.generation},
                      {"monitor", status.kernel.monitor},
                      {"exe", process ? loader->path_of(process->program) : ""},
                      {"known", process.has_value()},
                      {"reads_names", status.reads_names},
                      {"hidden", hidden},
                      {"hooks", hooks}}));
}

void end_selftest(Parts& parts, const Request&, const Answer& answer) {
    const auto refused = parts.enforcer.unmark_canary();
    answer.send(refused ? good({{"refused", *refused}})
                        : error(409, "no process tests the hooks now"));
}

namespace {

Result<Shares::Room> add_watcher(Parts& parts, const Request& request, const Answer& answer) {
    const auto kind = request.argument("kind").value_or("egress");
    if (kind == "blocks") {
        auto filter = BlockFilter::of(request.query);
        return filter ? Result<Shares::Room>(parts.watchers.add(answer, request.uid,
                                                                std::move(*filter), parts.ledger))
                      : std::unexpected(filter.error());
    }
    if (kind != "egress") {
        return fail("\"kind\" is egress or blocks");
    }
    auto query = request.query;
    std::erase_if(query, [](const auto& each) { return each.first == "kind"; });
    auto filter = EventFilter::of(query);
    return filter
               ? Result<Shares::Room>(parts.watchers.add(answer, request.uid, std::move(*filter)))
               : std::unexpected(filter.error());
}

} // namespace

void watch(Parts& parts, const Request& request, const Answer& answer) {
    constexpr auto limits = Watchers::limits;
    const auto room = add_watcher(parts, request, answer);
    if (!room) {
        return answer.send(error(400, room.error().text));
    }
    switch (*room) {
    case Shares::Room::yes:
        break;
    case Shares::Room::user_has_share:
        answer.send(error(503, fmt::format("uid {} has {} watchers already, which is the share of "
                                           "one user",
                                           request.uid, limits.of_user)));
        break;
    case Shares::Room::all_taken:
        answer.send(
            error(503, fmt::format("{} watch already, which is the most",
                                   limits.most - (request.uid == 0 ? 0 : limits.for_root))));
        break;
    }
}

} // namespace egress::verbs
