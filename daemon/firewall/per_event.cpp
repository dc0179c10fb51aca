// The older contract of the helper: a process per event (blocklistd's, see egress-helper(7)).
#include "daemon/base/log.h"
#include "daemon/base/protocol.h"
#include "daemon/firewall/job.h"
#include "daemon/firewall/lines.h"

namespace egress {

namespace {
constexpr std::size_t most_jobs = 4;
} // namespace

void Firewall::pump_events() {
    if (options_.flush) {
        options_.flush = false;
        for (const auto& name : ledger_.names()) {
            run_flush(name);
        }
    }
    while (jobs_.size() < most_jobs && (retry_.empty() || now_ms() >= retry_at_)) {
        const auto key = ledger_.next_touched();
        if (!key) {
            return;
        }
        // Two processes for one key would race, and the loser's word would be the last.
        const auto running = std::ranges::find_if(
            jobs_, [&](const auto& job) { return !job.second->flush && job.second->key == *key; });
        if (running != jobs_.end()) {
            running->second->again = true;
            continue;
        }
        start_job(*key, ledger_.wanted(*key).has_value());
    }
}

void Firewall::run_job(std::unique_ptr<Job> job, const std::vector<std::string>& words,
                       const std::vector<std::string>& environment) {
    const std::uint64_t number = next_job_++;
    Job* const raw = job.get();
    std::vector<std::string> argv = {options_.helper};
    argv.insert(argv.end(), words.begin(), words.end());
    raw->started = now_ms();
    requests_ += 1;
    auto child = Child::spawn(event_, reaper_, argv, environment,
                              {[raw](std::string_view line) {
                                   if (!std::exchange(raw->answered, true)) {
                                       raw->answer = line;
                                   }
                               },
                               [](const std::string&) {}, // the exit status follows
                               [this, number](int status) { job_done(number, status); }});
    if (!child) {
        complain(child.error().text);
        retry_later(raw->key);
        return;
    }
    raw->child = std::move(*child);
    jobs_.emplace(number, std::move(job));
}

void Firewall::run_flush(const std::string& name) {
    auto job = std::make_unique<Job>();
    job->flush = true;
    run_job(std::move(job), {"flush", name}, {});
}

void Firewall::start_job(const Key& key, bool add) {
    auto job = std::make_unique<Job>();
    job->key = key;
    job->add = add;
    const Element element = add ? *ledger_.wanted(key) : ledger_.element(key);
    const std::string id = add ? std::string() : element.id;
    run_job(
        std::move(job),
        {add ? "add" : "rem", element.name, protocol_name(element.protocol, ""),
         element.address.base.text(), std::to_string(element.address.length),
         element.port == 0 ? "" : std::to_string(element.port), id},
        {"EGRESS_SECONDS=" + (element.seconds == forever ? "*" : std::to_string(element.seconds)),
         std::string("EGRESS_ACTION=") + (element.reject ? "reject" : "drop")});
}

void Firewall::job_done(std::uint64_t number, int status) {
    const auto found = jobs_.find(number);
    if (found == jobs_.end()) {
        return;
    }
    Job& job = *found->second;
    job.child->drain(); // its output may still lie in the pipe
    const bool said_ok = job.answer == "OK" || job.answer.starts_with("OK ");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && said_ok) {
        went_well();
        if (!job.flush) {
            const auto handle =
                std::string_view(job.answer).substr(std::min<std::size_t>(3, job.answer.size()));
            ledger_.confirm(job.key, job.add, handle_of(handle));
        }
    } else {
        complain(fmt::format("{} and said \"{}\"", end_of(status), escape(job.answer, 80)));
        if (!job.flush) {
            retry_later(job.key);
        }
    }
    if (job.again) {
        ledger_.touch_again(job.key);
    }
    done_.push_back(std::move(found->second)); // this runs inside one of its handlers
    jobs_.erase(found);
}

} // namespace egress
