#include "daemon/policy/diagnostics.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "daemon/log.h"

namespace egress::policy {

namespace {

constexpr std::size_t quoted_length = 60;
constexpr std::size_t longest_suggestion = 32;
constexpr std::size_t share = max_diagnostics / 2 - 1; // one is left for "more"

/// Number of edits from one word to the other; two neighbours exchanged are one edit.
std::size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    std::vector<std::size_t> before = row; // the row of i - 1, and `older` that of i - 2
    std::vector<std::size_t> older;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        older = std::exchange(before, row);
        row[0] = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = before[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            row[j] = std::min({replaced, before[j] + 1, row[j - 1] + 1});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = std::min(row[j], older[j - 2] + 1);
            }
        }
    }
    return row.back();
}

} // namespace

std::string quote(std::string_view text) {
    return "'" + escape(text, quoted_length) + "'";
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
    std::string_view best;
    std::size_t least = word.size() <= 4 ? 2 : 3; // one more than what is still near
    if (word.size() > longest_suggestion) {
        return best;
    }
    for (const auto candidate : candidates) {
        const auto edits = distance(word, candidate);
        if (edits < least && edits < candidate.size()) {
            least = edits;
            best = candidate;
        }
    }
    return best;
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

bool Parsed::ok() const {
    return std::ranges::none_of(diagnostics, [](const Diagnostic& diagnostic) {
        return diagnostic.severity == Diagnostic::Severity::error;
    });
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
