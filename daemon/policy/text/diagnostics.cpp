#include "daemon/policy/text/diagnostics.h"

#include <utility>

#include <fmt/format.h>

#include "daemon/base/log.h"
#include "daemon/base/suggest.h"

namespace egress::policy {

namespace {

constexpr std::size_t quoted_length = 60;
constexpr std::size_t share = max_diagnostics / 2 - 1; // one place is left for "more"

} // namespace

std::string quote(std::string_view text) {
    return "'" + escape(text, quoted_length) + "'";
}

std::string suggestion(std::string_view word, std::span<const std::string_view> candidates,
                       std::string otherwise) {
    const auto near = nearest(word, candidates);
    return near.empty() ? otherwise : fmt::format("did you mean {}?", quote(near));
}

std::string Diagnostic::message() const {
    std::string out = place.text();
    out += severity == Severity::warning ? ": warning: " : ": ";
    out += text;
    return hint.empty() ? out : out + "; " + hint;
}

void Diagnostics::add(Diagnostic&& diagnostic, std::size_t& count) {
    if (++count <= share) {
        list_.push_back(std::move(diagnostic));
    }
}

void Diagnostics::error(Place place, std::string text, std::string hint) {
    add({Diagnostic::Severity::error, std::move(place), std::move(text), std::move(hint)}, errors_);
}

void Diagnostics::warn(Place place, std::string text, std::string hint) {
    add({Diagnostic::Severity::warning, std::move(place), std::move(text), std::move(hint)},
        warnings_);
}

std::vector<Diagnostic> Diagnostics::take() {
    const Place last = list_.empty() ? Place{} : Place{list_.back().place.file, 0, 0};
    if (errors_ > share) {
        list_.push_back({Diagnostic::Severity::error,
                         last,
                         fmt::format("{} more errors are not shown", errors_ - share),
                         {}});
    }
    if (warnings_ > share) {
        list_.push_back({Diagnostic::Severity::warning,
                         last,
                         fmt::format("{} more warnings are not shown", warnings_ - share),
                         {}});
    }
    errors_ = warnings_ = 0;
    return std::move(list_);
}

} // namespace egress::policy
