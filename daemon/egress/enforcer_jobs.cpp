// The enforcer's part in the runs of egressctl.
#include "daemon/egress/enforcer.h"

#include <algorithm>

namespace egress {

void Enforcer::begin_job(JobRequest request, OnAnswer done) {
    if (loader_ == nullptr || !detaching_.empty() || loader_->generation() == 0) {
        done({Answered::not_in_force,
              "no rules of [egress] are in force, and a run's rules stand in "
              "front of them: give the host one, such as \"* * * * * "
              "allow\""});
        return;
    }
    update_jobs();
    if (const auto number = builder_->begin_job(std::move(request))) {
        asking_.emplace_back(*number, std::move(done));
    } else {
        done({Answered::busy, "too many runs wait to begin"});
    }
}

std::optional<nlohmann::json> Enforcer::job_report(std::uint32_t id, std::uint32_t uid) {
    if (loader_ != nullptr && detaching_.empty()) {
        take_all_events();
        update_jobs();
    }
    return jobs_.report(id, uid);
}

bpf::JobOf Enforcer::job_of(std::uint32_t pid) const {
    if (loader_ != nullptr) {
        return loader_->job_of(pid);
    }
    return in_kernel().jobs ? bpf::JobOf::unknown : bpf::JobOf::none;
}

void Enforcer::update_jobs() {
    jobs_.update(loader_->jobs());
    loader_->jobs().tidy();
}

bool Enforcer::Status::covers_sockets() const {
    const auto sees = [this](const char* hook) {
        const auto found = std::ranges::find(coverage, hook, &bpf::Coverage::hook);
        return found != coverage.end() && found->attached;
    };
    return sees("egress_unix_connect") && sees("egress_unix_sendmsg");
}

} // namespace egress
