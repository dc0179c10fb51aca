// Rules as a file: read whole, replaced whole.
#pragma once

#include <string>
#include <string_view>

#include "ctl/context.h"
#include "daemon/base/result.h"

namespace egress::ctl {

/// The text of the file, or of standard input where the path is "-".
Outcome<std::string> read_rules(const Context& context, const std::string& path);

/// A rules file on its way to another content. Until put() nothing but a file beside it changes.
class Replacement {
  public:
    /// Writes the text beside the file (or beside what a symbolic link points to), with its mode
    /// and owner.
    static Result<Replacement> prepare(const std::string& path, std::string_view text);
    Replacement(Replacement&& other) noexcept;
    Replacement& operator=(Replacement&&) = delete;
    ~Replacement(); ///< removes what was not put

    /// Atomically; the file before stays beside it as "FILE.old".
    Result<> put();
    /// The file before, again.
    Result<> undo();
    const std::string& path() const { return path_; }
    /// Where the file before is; empty: there was none.
    std::string old() const { return had_ ? path_ + ".old" : std::string(); }

  private:
    Replacement() = default;
    std::string path_;
    std::string fresh_; ///< empty: put, or nothing to remove
    bool had_ = false;
};

} // namespace egress::ctl
