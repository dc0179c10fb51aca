#include "daemon/rulebook.h"

#include <memory>
#include <utility>

#include <fmt/format.h>

#include "daemon/log.h"

namespace egress {

Rulebook::Rulebook(const Clock& clock, Ledger& ledger, Enforcer& enforcer, std::string conf)
    : clock_(clock), ledger_(ledger), enforcer_(enforcer), conf_(std::move(conf)) {
    state_.files = {conf_, directory_of(conf_)};
    state_.loaded = clock_.wall();
}

void Rulebook::begin(Enforcer::OnForce done) {
    enforcer_.apply(ledger_.policy(), std::move(done));
}

void Rulebook::reload(Done done) {
    auto parsed = policy::parse_files(conf_, directory_of(conf_));
    Report report;
    report.parsed = parsed.ok();
    report.diagnostics = std::move(parsed.diagnostics);
    note(report);
    if (!report.parsed) {
        log::error("reload", "the rules have errors; the ones in force stay");
        done(report);
        return;
    }
    put_in_force(std::move(parsed.policy), [this, report, done](const Result<>& result) mutable {
        report.force = result;
        if (result) {
            log::notice("reload", "rules replaced");
        } else {
            state_.last_error = result.error().text;
            log::error("reload", "{}", result.error().text);
        }
        done(report);
    });
}

/// Into the log and the status.
void Rulebook::note(const Report& report) {
    state_.last_error.clear();
    for (const auto& diagnostic : report.diagnostics) {
        const bool error = diagnostic.severity == policy::Diagnostic::Severity::error;
        log::write(error ? log::Level::error : log::Level::warning, "rules", diagnostic.message());
        if (error && state_.last_error.empty()) {
            state_.last_error = diagnostic.message();
        }
    }
}

void Rulebook::put_in_force(policy::Policy policy, Enforcer::OnForce done) {
    const auto fresh = std::make_shared<policy::Policy>(std::move(policy));
    enforcer_.apply(*fresh, [this, fresh, done = std::move(done)](const Result<>& result) {
        // The old [egress] with the new [local] would be rules that nobody wrote.
        const bool old_stay = !result && result.error().code != ETIMEDOUT && enforcer_.in_force();
        if (!old_stay) {
            ledger_.replace(std::move(*fresh));
            state_.loaded = clock_.wall();
        }
        if (result || result.error().code == ETIMEDOUT || result.error().code == ECANCELED) {
            done(result);
            return;
        }
        done(fail(fmt::format("[egress] cannot be put in force: {}; {}", result.error().text,
                              old_stay ? "all rules before stay"
                                       : "nothing of it is enforced, the other sections are"),
                  result.error().code));
    });
}

} // namespace egress
