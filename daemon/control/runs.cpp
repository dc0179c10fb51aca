#include "daemon/control/runs.h"

#include <charconv>

#include "daemon/base/fields.h"
#include "daemon/base/log.h"
#include "daemon/control/reply.h"

namespace egress::verbs {

using reply::error;
using reply::good;

namespace {

Result<JobRequest> job_of(const Request& request) {
    const auto body = reply::body_of(request);
    if (!body) {
        return std::unexpected(body.error());
    }
    Fields fields(*body);
    JobRequest out;
    const auto started = fields.number<std::uint64_t>("started", std::uint64_t{1} << 48);
    if (!fields.has("started")) {
        fields.wrong("started", "is missing (clock ticks since boot)");
    }
    auto rules = fields.text("rules", Fields::Kind::document);
    if (rules && rules->size() > JobRequest::most_text) {
        fields.wrong("rules", fmt::format("has more than {} bytes", JobRequest::most_text));
    }
    auto sockets = fields.texts("sockets", EGRESS_MAX_UNIX_OF_JOB + 1);
    const bool learns = fields.flag("learn").value_or(false);
    if (const auto read = fields.good(); !read) {
        return std::unexpected(read.error());
    }
    out.rules = std::move(rules).value_or("");
    out.asker = {request.uid, request.pid, *started,
                 (learns ? std::uint32_t{EGRESS_JOB_LEARNS} : 0U) |
                     (request.uid == 0 ? std::uint32_t{EGRESS_JOB_ALONE} : 0U),
                 std::move(sockets)};
    return out;
}

} // namespace

void begin_run(Parts& parts, const Request& request, const Answer& answer) {
    auto job = job_of(request);
    if (!job) {
        return answer.send(error(400, job.error().text));
    }
    if (request.pid == 0) {
        return answer.send(error(404, "your process is not seen from egressd's pid namespace"));
    }
    job->control = parts.control_socket;
    const auto uid = request.uid;
    const bool covers = parts.enforcer.status().covers_sockets();
    const bool monitor = parts.enforcer.options().monitor;
    parts.enforcer.begin_job(std::move(*job), [answer, uid, monitor, covers](const Reply& begun) {
        if (!begun) {
            return answer.send(error(reply::status_of(begun.answered, 503), begun.text));
        }
        log::info("control", "uid {} begins run {}", uid, begun.text);
        answer.send(
            good({{"run", std::stoul(begun.text)}, {"monitor", monitor}, {"sockets", covers}}));
    });
}

void show_run(Parts& parts, const Request& request, const Answer& answer) {
    const auto text = request.argument("run").value_or("");
    std::uint32_t id = 0;
    const auto* const end = text.data() + text.size();
    if (const auto read = std::from_chars(text.data(), end, id);
        read.ec != std::errc() || read.ptr != end || id == 0) {
        return answer.send(error(400, "\"run\" is not the number of a run"));
    }
    const auto report = parts.enforcer.job_report(id, request.uid);
    answer.send(report ? good(*report) : error(404, "there is no run of yours with that number"));
}

} // namespace egress::verbs
