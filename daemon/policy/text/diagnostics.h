// Errors and warnings about rules: bounded, escaped, with suggestions.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/policy/rules/rule.h"

namespace egress::policy {

/// An error or a warning: "FILE:LINE:COLUMN: what is wrong; hint".
struct Diagnostic {
    enum class Severity { warning, error };
    Severity severity = Severity::error;
    Place place;
    std::string text; ///< what is wrong
    std::string hint; ///< what to write instead; may be empty
    std::string message() const;
};

inline constexpr std::size_t max_diagnostics = 100;

/// 'text', escaped and cut to fit on a line: a rules file must not control the terminal on which it
/// is checked.
std::string quote(std::string_view text);
/// "did you mean X?"; `otherwise` if no candidate is near.
std::string suggestion(std::string_view word, std::span<const std::string_view> candidates,
                       std::string otherwise = {});

/// Collects diagnostics in the order given. Errors and warnings have half of max_diagnostics each,
/// so that no number of warnings can hide an error.
class Diagnostics {
  public:
    void error(Place place, std::string text, std::string hint = {});
    void warn(Place place, std::string text, std::string hint = {});
    /// The collected list, with one last line each for the errors and warnings beyond the bound.
    std::vector<Diagnostic> take();

  private:
    void add(Diagnostic&& diagnostic, std::size_t& count);

    std::vector<Diagnostic> list_;
    std::size_t errors_ = 0;
    std::size_t warnings_ = 0;
};

} // namespace egress::policy
