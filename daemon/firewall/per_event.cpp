#include "daemon/firewall/per_event.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "daemon/base/log.h"
#include "daemon/base/protocol.h"

namespace egress {

namespace {

constexpr std::size_t most_jobs = 4;

/// The handle in a helper's first line: "OK", "OK ID" or just the ID. nullopt: no such line.
std::optional<std::string_view> handle_in(std::string_view line) {
    if (line == "OK") {
        return "";
    }
    const auto handle = handle_of(line.starts_with("OK ") ? line.substr(3) : line);
    return handle.empty() ? std::nullopt : std::optional(handle);
}

} // namespace

bool PerEvent::has_room() const {
    return jobs_.size() < most_jobs;
}

bool PerEvent::defer(const Key& key) {
    // Two processes for one key would race, and the loser's word would be the last.
    const auto running = std::ranges::find_if(jobs_, [&](const auto& job) {
        return job.second->request.changes_a_block() && job.second->request.key == key;
    });
    if (running == jobs_.end()) {
        return false;
    }
    running->second->again = true;
    return true;
}

void PerEvent::add(const Key& key, const Element& element) {
    if (element.id.empty()) {
        change({HelperRequest::Kind::add, key, {}, 0}, element, {});
    } else if (Job* const job =
                   change({HelperRequest::Kind::rem, key, {}, 0}, element, element.id)) {
        job->then_add = std::make_unique<Element>(element);
    }
}

void PerEvent::remove(const Key& key, const Element& element) {
    change({HelperRequest::Kind::rem, key, {}, 0}, element, element.id);
}

void PerEvent::flush(const std::string& name) {
    run({HelperRequest::Kind::flush, {}, name, 0}, {"flush", name}, {});
}

PerEvent::Job* PerEvent::change(HelperRequest request, const Element& element,
                                const std::string& id) {
    const bool add = request.kind == HelperRequest::Kind::add;
    return run(
        std::move(request),
        {add ? "add" : "rem", element.name, protocol_name(element.protocol, ""),
         element.address.base.text(), std::to_string(element.address.length),
         element.port == 0 ? "" : std::to_string(element.port), id},
        {"EGRESS_SECONDS=" + (element.seconds == forever ? "*" : std::to_string(element.seconds)),
         std::string("EGRESS_ACTION=") + (element.reject ? "reject" : "drop")});
}

/// Null: the process could not be started, and the handler knows.
PerEvent::Job* PerEvent::run(HelperRequest request, const std::vector<std::string>& words,
                             std::vector<std::string> environment) {
    for (auto& each : helper_environment()) {
        environment.push_back(std::move(each));
    }
    auto job = std::make_unique<Job>();
    Job* const raw = job.get();
    raw->request = std::move(request);
    raw->request.asked_at = now_ms();
    const std::uint64_t number = next_job_++;
    std::vector<std::string> argv = {helper_};
    argv.insert(argv.end(), words.begin(), words.end());
    requests_ += 1;
    auto child = Child::spawn(event_, reaper_, argv, environment,
                              {[raw](std::string_view line) {
                                   if (!std::exchange(raw->answered, true)) {
                                       raw->answer = line;
                                   }
                               },
                               [](const std::string&) {}, // the exit status follows
                               [this, number](int status) { ended(number, status); }});
    if (!child) {
        handlers_.done(raw->request, false, child.error().text);
        return nullptr;
    }
    raw->child = std::move(*child);
    jobs_.emplace(number, std::move(job));
    return raw;
}

/// Reads the end of a process as blocklistd does: an `add` says its handle, and of the others the
/// status is enough.
void PerEvent::conclude(const Job& job, int status) {
    const bool exited = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const auto handle = handle_in(job.answer);
    const bool adds = job.request.kind == HelperRequest::Kind::add;
    if (exited && (handle || (!adds && !job.answered))) {
        handlers_.done(job.request, true, handle.value_or(""));
    } else {
        handlers_.done(job.request, false,
                       fmt::format("{} and said \"{}\"", end_of(status), escape(job.answer, 80)));
    }
}

void PerEvent::ended(std::uint64_t number, int status) {
    const auto found = jobs_.find(number);
    if (found == jobs_.end()) {
        return;
    }
    const auto job = std::shared_ptr<Job>(std::move(found->second));
    jobs_.erase(found);
    job->child->drain(); // its output may still lie in the pipe
    if (job->then_add) {
        // Even where the old one could not be removed: the block matters more.
        Job* const add =
            change({HelperRequest::Kind::add, job->request.key, {}, 0}, *job->then_add, {});
        if (add != nullptr) {
            add->again = job->again;
        }
    } else {
        conclude(*job, status);
    }
    if (job->again && !job->then_add) {
        handlers_.again(job->request.key);
    }
    done_.push_back(job); // this runs inside one of its handlers
}

void PerEvent::tick() {
    const std::int64_t now = now_ms();
    for (auto it = jobs_.begin(); it != jobs_.end();) {
        const auto current = it++;
        if (now - current->second->request.asked_at > hang_ms) {
            const auto job = std::move(current->second);
            jobs_.erase(current);
            job->child.reset();
            handlers_.done(job->request, false, "does not end; it is killed");
        }
    }
}

} // namespace egress
