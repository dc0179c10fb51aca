#include "daemon/base/suggest.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace egress {

namespace {

constexpr std::size_t longest = 32; // letters; longer words get no suggestion

/// Number of edits from one word to the other; swapping two neighbours is one edit.
std::size_t distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    std::vector<std::size_t> before = row; // the row of i - 1; `older` is that of i - 2
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

std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates) {
    std::string_view best;
    std::size_t least = word.size() <= 4 ? 2 : 3; // one more than the largest accepted distance
    if (word.size() > longest) {
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

std::string hint(std::string_view word, std::span<const std::string_view> candidates) {
    const auto near = nearest(word, candidates);
    return near.empty() ? fmt::format("known are {}", fmt::join(candidates, ", "))
                        : fmt::format("did you mean \"{}\"?", near);
}

} // namespace egress
