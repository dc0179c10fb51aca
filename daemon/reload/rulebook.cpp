#include "daemon/reload/rulebook.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "daemon/base/boot.h"
#include "daemon/base/fields.h"
#include "daemon/base/json_text.h"
#include "daemon/base/log.h"
#include "daemon/policy/text/file.h"
#include "daemon/reload/kept_rules.h"

namespace egress {

namespace {

constexpr const char* meta_key = "trial";

Rulebook::Report failed(std::string text, bool misplaced) {
    Rulebook::Report report;
    report.parsed = true;
    report.misplaced = misplaced;
    report.force = {Applied::failed, std::move(text)};
    return report;
}

} // namespace

Rulebook::Rulebook(const Clock& clock, Ledger& ledger, Enforcer& enforcer, Keeper& keeper,
                   RulesReader& reader, std::string conf)
    : clock_(clock), ledger_(ledger), enforcer_(enforcer), keeper_(keeper), reader_(reader),
      conf_(std::move(conf)) {
    state_.files = {conf_, directory_of(conf_)};
    state_.loaded = clock_.wall();
}

std::string Rulebook::file() const {
    std::error_code code;
    const auto path = std::filesystem::absolute(conf_, code);
    return code ? conf_ : path.lexically_normal().string();
}

/// The trial of an earlier daemon that the database has.
std::optional<Trial> Rulebook::trial_that_is_on() const {
    const auto text = keeper_.store().env().meta(meta_key);
    const auto kept = text ? nlohmann::json::parse(*text, nullptr, false) : nlohmann::json();
    if (!kept.is_object()) {
        return std::nullopt;
    }
    Fields fields(kept);
    const auto boot = fields.text("boot");
    const auto until = fields.number<Moment>("until", std::numeric_limits<Moment>::max());
    const auto rules = fields.text("text", Fields::Kind::document);
    const auto name = fields.text("name", Fields::Kind::document);
    if (!boot || !until || !rules || !name) {
        return std::nullopt;
    }
    const bool over = *boot != boot_id() || *until <= clock_.now();
    if (over) {
        log::notice("trial", "the trial of {} is over: the rules before are in force",
                    escape(*name));
        return std::nullopt;
    }
    return Trial{*name, *rules, *until};
}

/// Keeps what is in force for a start at which the files are wrong.
void Rulebook::keep_rules() {
    keeper_.set_meta(kept_rules_key, kept_text(ledger_.policy()), [](bool) {});
}

void Rulebook::begin_without_trial(OnApplied done, const Origin& origin) {
    if (origin.error.empty()) {
        keep_rules();
    } else {
        state_.last_error = origin.error;
        log::error("rules", "{}; mend them and reload", origin.error);
    }
    if (origin.hold_egress) {
        done(enforcer_.hold(origin.error));
    } else {
        enforcer_.apply({ledger_.policy(), {}, std::move(done), true});
    }
}

void Rulebook::begin(OnApplied done, const Origin& origin) {
    const auto kept = trial_that_is_on();
    auto parsed = kept ? policy::parse_instead(kept->text, kept->name, conf_, directory_of(conf_))
                       : policy::Parsed{};
    if (!kept || !parsed.ok()) {
        keeper_.set_meta(meta_key, "", [](bool) {});
        begin_without_trial(std::move(done), origin);
        return;
    }
    log::notice("trial", "the trial of {} goes on for {} seconds", escape(kept->name),
                kept->until - clock_.now());
    trial_ = kept;
    before_ = ledger_.policy();
    put_in_force(std::move(parsed.policy), [this, done](const ApplyOutcome& outcome) {
        if (outcome.applied == Applied::superseded) {
            overtaken_ = done; // the trial ended before it was in force
        } else {
            done(outcome);
        }
    });
}

std::string Rulebook::busy() const {
    return fmt::format("{} is tried out, for {} more seconds: \"egressctl confirm\" keeps it, "
                       "\"egressctl confirm --back\" ends it",
                       escape(trial_->name), std::max<Seconds>(trial_->until - clock_.now(), 0));
}

void Rulebook::reload(Done done, std::optional<bpf::Asker> asker) {
    reader_.read([conf = conf_] { return policy::parse_files(conf, directory_of(conf)); },
                 [this, done = std::move(done), asker](policy::Parsed&& parsed) {
                     take(std::move(parsed), done, asker);
                 });
}

void Rulebook::take(policy::Parsed parsed, Done done, std::optional<bpf::Asker> asker) {
    if (trial_) {
        log::warning("reload", "not reloaded: {}", busy());
        done(failed(busy(), true));
        return;
    }
    Report report;
    report.parsed = parsed.ok();
    report.diagnostics = std::move(parsed.diagnostics);
    note(report);
    if (!report.parsed) {
        log::error("reload", "the rules have errors; the ones in force stay");
        done(report);
        return;
    }
    const auto finish = [this, report, done](const ApplyOutcome& outcome) mutable {
        report.force = outcome;
        add_lockouts(report);
        if (outcome.in_force()) {
            log::notice("reload", "rules replaced");
            keep_rules();
        } else {
            state_.last_error = outcome.error;
            log::error("reload", "{}", outcome.error);
        }
        done(report);
    };
    put_in_force(std::move(parsed.policy), finish, asker);
}

void Rulebook::add_lockouts(Report& report) const {
    if (report.force.in_force() || report.force.applied == Applied::lockout) {
        const auto& lockouts = enforcer_.lockouts();
        report.diagnostics.insert(report.diagnostics.end(), lockouts.begin(), lockouts.end());
    }
}

void Rulebook::try_out(Trial trial, Done done, std::optional<bpf::Asker> asker) {
    auto read = [conf = conf_, name = trial.name, text = trial.text] {
        return policy::parse_instead(text, name, conf, directory_of(conf));
    };
    reader_.read(std::move(read), [this, trial = std::move(trial), done = std::move(done),
                                   asker](policy::Parsed&& parsed) {
        take_trial(trial, std::move(parsed), done, asker);
    });
}

void Rulebook::take_trial(Trial trial, policy::Parsed parsed, Done done,
                          std::optional<bpf::Asker> asker) {
    if (trial_) {
        done(failed(busy(), true));
        return;
    }
    Report report;
    report.parsed = parsed.ok();
    report.diagnostics = std::move(parsed.diagnostics);
    if (!report.parsed) {
        done(report);
        return;
    }
    before_ = ledger_.policy();
    trial_ = std::move(trial);
    const nlohmann::json kept = {{"boot", boot_id()},
                                 {"until", trial_->until},
                                 {"name", trial_->name},
                                 {"text", trial_->text}};
    const auto policy = std::make_shared<policy::Policy>(std::move(parsed.policy));
    // Write to the disk first: after a kill from here on, the next daemon must know that these
    // rules are temporary.
    keeper_.set_meta(meta_key, json_text(kept),
                     [this, policy, report, asker, number = ++trials_,
                      done = std::move(done)](bool durable) mutable {
                         if (!trial_ || ending_ || number != trials_) {
                             done(failed("the trial was taken back before it began", true));
                             return;
                         }
                         if (!durable) {
                             trial_.reset();
                             keeper_.set_meta(meta_key, "", [](bool) {});
                             done(failed("the database cannot be written, so a restart would not "
                                         "know of the trial: not begun",
                                         false));
                             return;
                         }
                         start_trial(std::move(*policy), std::move(report), std::move(done), asker);
                     });
}

void Rulebook::start_trial(policy::Policy policy, Report report, Done done,
                           std::optional<bpf::Asker> asker) {
    const auto finish = [this, report = std::move(report),
                         done = std::move(done)](const ApplyOutcome& outcome) mutable {
        report.force = outcome;
        add_lockouts(report);
        if (outcome.in_force()) {
            log::notice("trial", "{} is tried out for {} seconds", escape(trial_->name),
                        trial_->until - clock_.now());
            done(report);
        } else if (outcome.applied == Applied::lockout) {
            log::notice("trial", "{} is not tried out: {}", escape(trial_->name), outcome.error);
            forget_trial(); // the previous rules were never replaced
            done(report);
        } else if (ending_) {
            done(report); // the trial ended before it was in force; its end continues
        } else {
            end_trial("it cannot be put in force",
                      [report, done](const ApplyOutcome&) { done(report); });
        }
    };
    put_in_force(std::move(policy), finish, asker);
}

void Rulebook::forget_trial() {
    trial_.reset();
    before_ = {};
    keeper_.set_meta(meta_key, "", [](bool) {});
}

void Rulebook::confirm(Done done) {
    if (!trial_ || ending_) {
        done(failed("no rules are tried out: there is nothing to confirm", true));
        return;
    }
    const auto text = policy::read_rules_file(conf_);
    if (!text) {
        done(failed(
            fmt::format("egressd cannot read the rules in {}: {}", file(), text.error().what),
            true));
        return;
    }
    if (*text != trial_->text) {
        done(failed(fmt::format("the rules that are tried out are not in {} yet", file()), true));
        return;
    }
    log::notice("trial", "{} is confirmed", escape(trial_->name));
    trial_.reset();
    before_ = {};
    keeper_.set_meta(meta_key, "", [this, done = std::move(done)](bool durable) {
        if (!durable) {
            log::error("trial", "the database does not take the confirmation yet");
        }
        reload(done); // the same rules, under the names of their files
    });
}

void Rulebook::go_back(Done done) {
    if (!trial_ || ending_) {
        done(failed("no rules are tried out: there is nothing to go back from", true));
        return;
    }
    end_trial("it was taken back", [done = std::move(done)](const ApplyOutcome& outcome) {
        Report report;
        report.parsed = true;
        report.force = outcome;
        done(report);
    });
}

void Rulebook::end_trial(const char* why, OnApplied done) {
    ending_ = true;
    const auto name = escape(trial_->name);
    put_in_force(before_, [this, why, name, done = std::move(done)](const ApplyOutcome& outcome) {
        ending_ = false;
        if (outcome.in_force()) {
            log::notice("trial", "the rules before {} are in force again: {}", name, why);
        } else {
            log::error("trial", "{}; the rules before {} should be in force again, as {}",
                       outcome.error, name, why);
        }
        forget_trial();
        if (const auto starting = std::exchange(overtaken_, {})) {
            starting(outcome);
        }
        done(outcome);
    });
}

void Rulebook::tick() {
    if (trial_ && !ending_ && clock_.now() >= trial_->until) {
        end_trial("it was not confirmed in time", [](const ApplyOutcome&) {});
    }
}

/// Writes the result to the log and the status.
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

void Rulebook::put_in_force(policy::Policy policy, OnApplied done,
                            std::optional<bpf::Asker> asker) {
    const auto fresh = std::make_shared<policy::Policy>(std::move(policy));
    const auto finish = [this, fresh, done = std::move(done)](const ApplyOutcome& outcome) {
        const auto applied = outcome.applied;
        // The old [egress] with the new [local] would be rules that the administrator never wrote.
        const bool old_stay = applied == Applied::lockout || applied == Applied::unavailable ||
                              ((applied == Applied::failed || applied == Applied::superseded) &&
                               enforcer_.in_force());
        if (!old_stay) {
            ledger_.replace(std::move(*fresh));
            state_.loaded = clock_.wall();
        }
        if (applied != Applied::failed && applied != Applied::unavailable) {
            done(outcome);
            return;
        }
        done(
            {applied, fmt::format("[egress] cannot be put in force: {}; {}", outcome.error,
                                  old_stay ? "all rules before stay"
                                           : "nothing of it is enforced, the other sections are")});
    };
    enforcer_.apply({*fresh, asker, finish});
}

} // namespace egress
