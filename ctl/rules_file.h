// A rules file: read and replaced as a whole.
#pragma once

#include <string>
#include <string_view>

#include "ctl/context.h"
#include "daemon/base/result.h"

namespace egress::ctl {

/// The text of the file; path "-": standard input.
Outcome<std::string> read_rules(const Context& context, const std::string& path);

/// Replaces the text of a rules file. Until put() it only writes a file beside it.
class Replacement {
  public:
    /// Writes the text beside the file (or beside the target of a symbolic link), with its mode and
    /// owner.
    static Result<Replacement> prepare(const std::string& path, std::string_view text);
    Replacement(Replacement&& other) noexcept;
    Replacement& operator=(Replacement&&) = delete;
    ~Replacement(); ///< removes the new file unless put

    /// Replaces the file atomically; the previous one stays beside it as "FILE.old".
    Result<> put();
    /// Restores the previous file.
    Result<> undo();
    const std::string& path() const { return path_; }
    /// Path of the previous file; empty: there was none.
    std::string old() const { return had_ ? path_ + ".old" : std::string(); }

  private:
    Replacement() = default;
    std::string path_;
    std::string fresh_; ///< empty: put, or nothing to remove
    bool had_ = false;
};

} // namespace egress::ctl
