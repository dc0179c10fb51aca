#include "daemon/egress/looker.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>

#include <fmt/format.h>

#include "daemon/base/log.h"
#include "daemon/base/words.h"
#include "daemon/egress/look_up.h"

namespace egress {

namespace {

/// The daemon's own program, by its path if that still leads to it.
std::string own_program() {
    constexpr const char* self = "/proc/self/exe";
    std::error_code code;
    const auto path = std::filesystem::read_symlink(self, code);
    return !code && std::filesystem::equivalent(path, self, code) ? path.string() : self;
}

/// Whether the line may let any program reach what it names.
bool lets_anyone(const policy::EgressRule& rule) {
    const auto& options = rule.options;
    return rule.verdict.kind == policy::Verdict::Kind::allow &&
           rule.program.kind == policy::Program::Kind::any && !rule.owner.uid && !rule.owner.gid &&
           options.parent.empty() && options.under.empty() && options.cgroup.empty() &&
           options.unit.empty() && !options.container;
}

} // namespace

std::vector<std::string> Looker::names_of(const std::vector<policy::EgressRule>& rules,
                                          bool listed) {
    std::set<std::string> out;
    for (const auto& rule : rules) {
        if (rule.destination.kind == policy::Destination::Kind::name &&
            (!listed || lets_anyone(rule))) {
            out.insert(rule.destination.text);
        }
    }
    return {out.begin(), out.end()};
}

void Looker::follow(Plan plan) {
    plan_ = std::move(plan);
    names_.clear();
    for (const auto& name : plan_.names) {
        names_.emplace(name, Name{});
    }
    warned_ = false;
    ended_ = true; // what the child asks for may be names of before
}

Moment Looker::before_end(std::uint64_t until) const {
    constexpr std::uint64_t second = 1'000'000'000;
    const auto end = static_cast<Moment>(until / second) - std::max<Seconds>(plan_.grace / 2, 1);
    return std::max(end, after(clock_.now(), least_wait));
}

void Looker::note(const std::string& name, std::uint64_t until) {
    const auto found = names_.find(name);
    if (plan_.refresh && found != names_.end() && found->second.outcome != Outcome::unasked) {
        found->second.due = before_end(until);
    }
}

void Looker::settle(Name& name, Outcome outcome) {
    const bool noted = name.due != never && name.due > clock_.now();
    name.outcome = outcome;
    switch (outcome) {
    case Outcome::answered:
        name.wait = least_wait;
        name.due = !plan_.refresh ? never : noted ? name.due : after(clock_.now(), empty_wait);
        break;
    case Outcome::silent:
        name.due = after(clock_.now(), name.wait);
        name.wait = std::min(2 * name.wait, most_wait);
        break;
    default:
        name.due = never;
    }
}

void Looker::take(std::string_view line) {
    constexpr std::array<std::pair<std::string_view, Outcome>, 3> words = {
        {{"answered", Outcome::answered},
         {"silent", Outcome::silent},
         {"refused", Outcome::refused}}};
    const auto space = std::min(line.find(' '), line.size());
    const auto* const word = std::ranges::find(words, line.substr(0, space),
                                               &std::pair<std::string_view, Outcome>::first);
    const auto found = names_.find(line.substr(std::min(space + 1, line.size())));
    if (word != words.end() && found != names_.end()) {
        settle(found->second, word->second);
    }
}

/// The child has ended, well or not.
void Looker::finish(const std::string& why) {
    std::size_t asked = 0;
    for (auto& [text, name] : names_) {
        if (name.outcome == Outcome::asked) { // not told
            settle(name, Outcome::silent);
            ++asked;
        }
    }
    const auto all = counters();
    if (!why.empty() && asked > 0) {
        log::debug("names", "a look-up ended early ({}), {} are left", why,
                   counted(asked, "names"));
    }
    log::info("names", "looked up {}: {} answered, {} silent, {} refused",
              counted(all.names, "names"), all.answered, all.silent, all.refused);
    if (all.refused > 0 && !std::exchange(warned_, true)) {
        log::warning("names",
                     "no line lets egressd ask for {} of its lines: they are granted only when "
                     "programs ask; write a line for the resolver and {} to change that",
                     counted(all.refused, "names"), own_program());
    }
    ended_ = true;
}

void Looker::ask(const std::vector<std::string>& names) {
    Child::Handlers handlers;
    handlers.line = [this](std::string_view line) { take(line); };
    handlers.broken = [](const std::string&) {};
    handlers.exited = [this](int status) {
        child_->drain();
        finish(status == 0 ? "" : fmt::format("status {}", status));
    };
    auto child = Child::spawn(event_, reaper_, {own_program(), look_up_option}, {}, handlers);
    if (!child) {
        log::warning("names", "cannot look names up: {}", child.error().text);
        for (const auto& name : names) {
            settle(names_[name], Outcome::silent);
        }
        return;
    }
    child_ = std::move(*child);
    std::string order;
    for (const auto& [address, port] : plan_.resolvers) {
        order += fmt::format("resolver {} {}\n", address.text(), port);
    }
    for (const auto& name : names) {
        names_[name].outcome = Outcome::asked;
        names_[name].due = never;
        order += fmt::format("name {}\n", name);
    }
    child_->write(order + "go\n");
    child_->flush();
}

void Looker::tick() {
    if (std::exchange(ended_, false)) {
        child_.reset();
    }
    if (child_ != nullptr || plan_.resolvers.empty()) {
        return;
    }
    std::vector<std::string> due;
    for (const auto& [text, name] : names_) {
        if (name.due != never && name.due <= clock_.now()) {
            due.push_back(text);
        }
    }
    if (!due.empty()) {
        ask(due);
    }
}

Looker::Counters Looker::counters() const {
    Counters out;
    out.names = names_.size();
    for (const auto& [text, name] : names_) {
        out.answered += name.outcome == Outcome::answered ? 1 : 0;
        out.silent += name.outcome == Outcome::silent ? 1 : 0;
        out.refused += name.outcome == Outcome::refused ? 1 : 0;
    }
    return out;
}

} // namespace egress
