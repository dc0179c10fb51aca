// Text that is collected first and written later, in a bounded part of memory.
//
// What a reader writes while it holds the database, or the daemon's answer, must not wait for a
// pager. Beyond some kilobytes the text goes to a file without a name.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "ctl/context.h"

namespace egress::ctl {

class Spool {
  public:
    static constexpr std::size_t most_held = 1u << 20u; ///< bytes in memory

    void add(std::string_view text);
    /// Writes everything to the stream. A failure: the file could not take or give back its part.
    Outcome<void> write(std::FILE* to);

  private:
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    void spill();

    std::string held_;
    std::unique_ptr<std::FILE, Close> file_;
    int error_ = 0;
};

} // namespace egress::ctl
