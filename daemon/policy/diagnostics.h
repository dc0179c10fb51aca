// Errors and warnings while rules are read: bounded, escaped, with suggestions.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/policy/parser.h"

namespace egress::policy {

/// 'text', escaped and cut to what fits on a line: a rules file must not be able to write to the
/// terminal of who checks it.
std::string quote(std::string_view text);
/// The candidate that is at most two slips of the finger away, or empty.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);
/// "did you mean X?", or `otherwise` where nothing is near.
std::string suggestion(std::string_view word, std::span<const std::string_view> candidates,
                       std::string otherwise = {});

/// Collects diagnostics in the order given. Errors and warnings have half of max_diagnostics each,
/// so that no number of warnings can hide an error.
class Diagnostics {
  public:
    void error(Place place, std::string text, std::string hint = {});
    void warn(Place place, std::string text, std::string hint = {});
    /// What was collected, with a last line each for the errors and warnings beyond the bound.
    std::vector<Diagnostic> take();

  private:
    void add(Diagnostic&& diagnostic, std::size_t& count);

    std::vector<Diagnostic> list_;
    std::size_t errors_ = 0;
    std::size_t warnings_ = 0;
};

} // namespace egress::policy
